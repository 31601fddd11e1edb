//! Measurements that can be believed.
//!
//! A figure is printed only from a [`Record`], and a record is kept only if the same program
//! computed what it should. The record holds every raw time, so that a figure can be made anew in
//! another way, and everything that it rests on: the machine as found, the source, the weights, the
//! limits of the hardware measured by the same process.
//!
//! Speed on a shared machine drifts by tens of percent within minutes. Nothing is therefore
//! compared across time: limits are measured beside each group of steps, engines take turns, and
//! what is reported is the median over pairs.
//!
//! Deliberately absent: means where a median is meant, best-of runs, and figures without raw times.

mod bench;
mod error;
mod gate;
pub mod host;
pub mod latency;
mod peer;
mod profile;
mod prompt;
pub mod record;
pub mod report;
pub mod server;
pub mod stats;
mod stepper;
pub mod table;
pub mod workload;

pub use bench::{Bench, Display, Factory, Program, Settings, Sizes, Subject};
pub use error::{BenchError, Result};
pub use gate::{Fixtures, Gate, GateReport, Perplexity};
pub use peer::{Installation, Peer, installations};
pub use record::{Record, Series};
