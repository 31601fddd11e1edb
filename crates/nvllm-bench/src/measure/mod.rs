//! What measures: limits of the hardware, steps of a model, prompts, the order of turns.
//!
//! It knows models and backends, and neither peers nor workloads.

mod decode_probe;
mod layers;
mod matmul;
mod measured_backend;
mod measurement;
pub(crate) mod prompt;
mod roof;
mod set_times;
pub(crate) mod stepper;
mod turns;

pub use decode_probe::{PROBE_BYTES, decode_seconds};
pub use matmul::MatmulRates;
pub(crate) use measured_backend::MeasuredBackend;
pub(crate) use measurement::Measurement;
pub(crate) use roof::{Roof, higher, roof_series, share};
pub(crate) use set_times::SetTimes;
pub(crate) use turns::{settle, turns};
