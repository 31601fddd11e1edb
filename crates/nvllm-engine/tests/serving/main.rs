//! The engine as its users meet it: what is taken and refused, how requests end, what is counted.
//!
//! The backend is the reference, with hooks where a test needs to hold a step or to break one
//! ([`support`]).

mod abort;
mod choices;
mod company;
mod device_errors;
mod dropped;
mod embed;
mod grammars;
mod health;
mod masks;
mod queue;
mod request_limits;
mod reuse;
mod sinks;
mod stats;
mod streams;
mod support;
mod tenants;
mod unusable;
