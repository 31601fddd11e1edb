//! What every backend that runs on the host shares: steps in flight, resolving a step against
//! slots, sampling its rows.

mod batch;
mod clock;
mod executable;
mod memory;
mod sampler;
mod slots;

pub use batch::{Batch, BatchOutput, BatchSeq};
use clock::OpClock;
pub use executable::{Forward, HostExecutable};
pub use memory::memory_bytes;
pub use sampler::sample_row;
pub use slots::{SlotState, Slots};
