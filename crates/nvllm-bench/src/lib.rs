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
//! In layers, each of which knows those before it: [`record`] (what is kept), `measure` (limits,
//! steps, turns), `peer` (other engines), [`Context`] and [`workload`] (what is measured),
//! [`Session`] and [`server`] (who measures), [`table`] and [`report`] (what is shown).
//!
//! Deliberately absent: means where a median is meant, best-of runs, and figures without raw times.

mod context;
mod display;
mod error;
pub mod files;
mod gate;
mod held_out;
pub mod latency;
pub mod machine;
mod measure;
mod peer;
mod profile;
pub mod record;
pub mod report;
pub mod server;
mod session;
mod settings;
pub mod source;
pub mod stats;
mod subject;
pub mod table;
mod units;
pub mod workload;

pub use context::Context;
pub use display::Display;
pub use error::{BenchError, Result};
pub use gate::{Gate, GateReport, Perplexity};
pub use measure::{MatmulRates, PROBE_BYTES, decode_seconds};
pub use peer::{Installation, Peer, installations};
pub use record::{Record, Series};
pub use session::Session;
pub use settings::{Binary, Settings, Sizes};
pub use subject::{Factory, Subject};
