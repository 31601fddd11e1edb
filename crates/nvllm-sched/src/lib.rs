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
//! **Policy.** Sequences that hold a slot go first: the one that has waited longest, then those
//! that need a single token, then those in mid-prompt. What they leave of the step's tokens and
//! output rows goes to waiting sequences, by priority and then arrival; nobody overtakes the head
//! of the queue, so a large request is not starved by small ones. A sequence is admitted only if
//! the KV blocks of its prompt *and* of all tokens that it may yet generate are neither used nor
//! promised to another. That is the simplest policy that needs no preemption and cannot deadlock:
//! whoever runs can finish. It costs concurrency when `max_tokens` is far above what is generated;
//! give an honest `max_tokens`. Physical blocks are taken only when a step first writes to them.
//!
//! **Pure logic.** No clock, no device, no thread, no randomness: equal calls give equal steps, so
//! that a trace can be a snapshot and a million random interleavings a unit test.
//! [`Scheduler::check`] states every invariant.
//!
//! Deliberately absent, and admitted by the types: prefix reuse (the pool counts references),
//! preemption (a slot's reset carries output so far, and whether a row samples depends on what is
//! known and not on a phase), fairness between tenants, speculative steps, grammar masks. Text is
//! absent for good: stop strings are the engine's, which calls [`Scheduler::finish`].

mod check;
mod commit;
mod config;
mod error;
mod event;
mod plan;
mod pool;
mod scheduler;
mod sequence;

#[cfg(test)]
mod tests;

pub use config::SchedConfig;
pub use error::{Result, SchedError};
pub use event::{Admitted, FinishReason, SeqEvent};
pub use scheduler::{Scheduler, Stats, Totals};
pub use sequence::NewSequence;
