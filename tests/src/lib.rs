//! What end-to-end tests share: golden fixtures, and a session that drives a backend step by step without a scheduler, so
//! that a failing test points at a backend or a model and at nothing else.

mod fixture;
mod session;

pub use fixture::{Fixture, Sequence, golden_dir, model_dir};
pub use session::{Layout, Part, Session, argmax, limits};
