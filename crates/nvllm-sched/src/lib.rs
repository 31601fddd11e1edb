//! The scheduler: which tokens of which sequences run in the next step, and where their keys and
//! values go.
//!
//! There is no prefill phase and no decode phase. A sequence has tokens that it *knows* (its
//! prompt, and what was sampled) and tokens that are *computed* (whose keys and values are in the
//! cache, or on their way there). A step lets some of them catch up: a sequence that decodes is one
//! token behind, a new prompt is many behind and catches up in chunks. [`Scheduler::plan`] makes
//! one ragged step out of that and [`Scheduler::commit`] takes its results back.
//!
//! **Steps overlap.** Up to `max_in_flight` steps may be planned and not yet committed. The last
//! token of a sequence is then known to the device only, and the next step takes it [from the
//! slot](nvllm_core::Source::Slot); lengths and positions never depend on what was sampled, so the
//! host always knows them. A stop that is found late discards what later steps made for the
//! sequence, and its slot and blocks stay pinned until the last of those steps is committed.
//!
//! **Turns.** Sequences that hold a slot go first: the one that has waited longest, then those
//! that need a single token, then those in mid-prompt. What they leave of the step's tokens and
//! output rows goes to waiting sequences: by priority, then by turns of the tenants (deficit round
//! robin on tokens, in `queue.rs`), then by arrival. No sequence overtakes an earlier one of its
//! tenant, so a large request is not starved by small ones.
//!
//! **Entries.** A step runs one entry program, so it holds sequences of one entry only: of the one
//! that ran longest ago among those that have something to run (`entries.rs`). Whatever one of two
//! entries has to do, the other's sequences wait for one step of it at most.
//!
//! **Blocks.** A sequence is admitted when there are free KV blocks for the tokens that it knows,
//! not for those that it may yet generate, less a watermark. When a running sequence needs a block
//! and none is free, the last one is preempted and computes its tokens again later (`preempt.rs`).
//! Whoever ranks first always gets what it needs, so there is always somebody who gets on.
//!
//! **Prefixes.** Full blocks can be found by a hash of their tokens and all tokens before them
//! (`prefix.rs`), from the commit of the step that filled them until they are overwritten, which
//! happens to the block that has been free longest. A new sequence takes over the longest prefix
//! that is still there, but computes the block of its last token in any case: the next is sampled
//! from there. The choices of one prompt share its blocks, the last of them as a
//! [copy](nvllm_core::BlockCopy), since each writes its own tokens there. Blocks behind a sliding
//! window are given back.
//!
//! **Pure logic.** No clock, no device, no thread, no randomness: equal calls give equal steps, so
//! that a trace can be a snapshot and a million random interleavings a unit test.
//! [`Scheduler::check`] states every invariant.
//!
//! **Masks.** What may be sampled is not decided here: a masked sequence's rows await masks, and
//! [`Scheduler::masked_rows`] says which rows these are and what came before their tokens.
//!
//! Deliberately absent, and admitted by the types: speculative steps, adapters (whose name will be
//! part of a prefix's root hash, beside the salt). Text is absent for good:
//! stop strings are the engine's, which calls [`Scheduler::finish`].

mod admit;
mod check;
mod commit;
mod config;
mod entries;
mod error;
mod event;
mod free_list;
mod masks;
mod plan;
mod pool;
mod preempt;
mod prefix;
mod queue;
mod scheduler;
mod sequence;
mod tenant;

#[cfg(test)]
mod tests;

pub use config::{GroupConfig, SchedConfig};
pub use error::{Result, SchedError};
pub use event::{Admitted, FinishReason, SeqEvent};
pub use masks::MaskedRow;
pub use scheduler::{Scheduler, Stats, Totals};
pub use sequence::NewSequence;
pub use tenant::TenantId;
