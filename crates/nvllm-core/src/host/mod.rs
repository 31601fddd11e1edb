//! What every backend that runs on the host shares: resolving a step against slots, and sampling its rows.

mod batch;
mod sampler;
mod slots;

pub use batch::{Batch, BatchOutput, BatchSeq};
pub use sampler::sample_rows;
pub use slots::{SlotState, Slots};
