//! Random walks against an executor without a model, planted faults, a trace to read, and errors.

mod admission;
mod entries;
mod executor;
mod faults;
mod input;
mod model;
mod trace;
mod turns;
mod walk;

pub(crate) use model::Rng;
