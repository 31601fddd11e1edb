//! Faults planted in the scheduler's state, in its steps, in a backend's output and in the events:
//! a walk that does not find them would prove nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use nvllm_core::{BlockId, SeqStep, Source, Step, StepOutput, TokenId};

use super::walk::Walk;
use crate::prefix::BlockHash;
use crate::sequence::Sequence;
use crate::{Scheduler, SeqEvent};

/// One thing to get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    LeakBlock,
    FreeEarly,
    ShareBlock,
    MissBlock,
    LeakSlot,
    ShareSlot,
    MiscountSteps,
    MiscountSamples,
    SkipToken,
    LoseSequence,
    ForgetPinned,
    MiscountPinned,
    LoseFollower,
    LoseDeadline,
    WrongHash,
    PublishOpen,
    GiveBackSeen,
    WrongToken,
    WrongPosition,
    WrongKvStart,
    SwapBlocks,
    NullBlock,
    NoReset,
    NoCopy,
    ShortTable,
    NoSample,
    SwapRows,
    LoseRow,
    LoseEvent,
    RepeatEvent,
    SwapEvents,
}

const IN_STATE: [Fault; 17] = [
    Fault::LeakBlock,
    Fault::FreeEarly,
    Fault::ShareBlock,
    Fault::MissBlock,
    Fault::LeakSlot,
    Fault::ShareSlot,
    Fault::MiscountSteps,
    Fault::MiscountSamples,
    Fault::SkipToken,
    Fault::LoseSequence,
    Fault::ForgetPinned,
    Fault::MiscountPinned,
    Fault::LoseFollower,
    Fault::LoseDeadline,
    Fault::WrongHash,
    Fault::PublishOpen,
    Fault::GiveBackSeen,
];

const ELSEWHERE: [Fault; 14] = [
    Fault::WrongToken,
    Fault::WrongPosition,
    Fault::WrongKvStart,
    Fault::SwapBlocks,
    Fault::NullBlock,
    Fault::NoReset,
    Fault::NoCopy,
    Fault::ShortTable,
    Fault::NoSample,
    Fault::SwapRows,
    Fault::LoseRow,
    Fault::LoseEvent,
    Fault::RepeatEvent,
    Fault::SwapEvents,
];

impl Fault {
    /// Plants it between two calls, if there is something to get wrong.
    pub(super) fn in_state(self, sched: &mut Scheduler) -> bool {
        if self == Self::ForgetPinned {
            let pinned = sched.seqs.iter_mut().find(|(_, s)| s.is_finished());
            let Some(key) = pinned.map(|(key, s)| (s.in_flight = 0, key).1) else { return false };
            sched.settle(key);
            return true;
        }
        self.in_blocks(sched) || self.in_counts(sched)
    }

    fn in_blocks(self, sched: &mut Scheduler) -> bool {
        let Scheduler { pools, seqs, .. } = sched;
        let block_len = sched.config.block_len;
        let mut holders = seqs.iter_mut().map(|(_, s)| s).filter(|s| s.computed > 0);
        match self {
            Self::LeakBlock => pools[0].alloc(1).is_some(),
            Self::FreeEarly => {
                let table = holders
                    .next()
                    .and_then(|s| s.allocation.as_ref())
                    .map(|held| Arc::clone(&held.tables[0]));
                table.inspect(|table| pools[0].release(&table[table.len() - 1..])).is_some()
            }
            Self::ShareBlock => {
                let block = holders.next().and_then(|s| s.allocation.as_ref()).map(|held| held.tables[0][0]);
                let other =
                    holders.next().and_then(|s| s.allocation.as_mut()).map(|held| &mut held.tables[0]);
                block
                    .zip(other)
                    .map(|(block, table)| *table = replaced(table, table.len() - 1, block))
                    .is_some()
            }
            Self::MissBlock => {
                let mut full = holders.filter(|s| s.computed.is_multiple_of(block_len));
                full.next().map(|s| s.computed += 1).is_some()
            }
            // Of a block that others may find.
            Self::WrongHash => {
                let found = |s: &&mut Sequence| {
                    let table = s.allocation.as_ref().map(|held| &held.tables[0]);
                    table.is_some_and(|table| pools[0].hash_of(table[0]).is_some()) && !s.hashes.is_empty()
                };
                let hash = BlockHash::root(Some("another"));
                holders.find(found).map(|s| s.hashes[0] = hash).is_some()
            }
            Self::PublishOpen => {
                let mut open = holders.filter(|s| s.num_published * block_len + block_len > s.computed);
                open.next().map(|s| s.num_published += 1).is_some()
            }
            Self::GiveBackSeen => {
                let held = holders.next().and_then(|s| s.allocation.as_mut());
                let Some(held) = held.filter(|held| held.given_back[0] < held.tables[0].len()) else {
                    return false;
                };
                let at = held.given_back[0];
                pools[0].release(&held.tables[0][at..=at]);
                held.tables[0] = replaced(&held.tables[0], at, BlockId::NULL);
                held.given_back[0] += 1;
                true
            }
            _ => false,
        }
    }

    fn in_counts(self, sched: &mut Scheduler) -> bool {
        let Scheduler { seqs, free_slots, running, num_pinned, deadlines, .. } = sched;
        let block_len = sched.config.block_len;
        let mut holders = seqs.iter_mut().map(|(_, s)| s).filter(|s| s.computed > 0);
        match self {
            Self::LeakSlot => free_slots.pop_first().is_some(),
            Self::ShareSlot => {
                let slot = holders.next().and_then(|s| s.allocation.as_ref()).map(|held| held.slot);
                let other = holders.next().and_then(|s| s.allocation.as_mut());
                slot.zip(other).map(|(slot, held)| held.slot = slot).is_some()
            }
            Self::MiscountSteps => holders.find(|s| s.in_flight > 0).map(|s| s.in_flight -= 1).is_some(),
            Self::MiscountSamples => {
                let live = |s: &&mut Sequence| !s.is_finished() && s.num_sampled < s.max_tokens;
                holders.find(live).map(|s| s.num_sampled += 1).is_some()
            }
            Self::SkipToken => {
                let inside = |s: &&mut Sequence| s.num_sampled > 0 && s.computed % block_len > 1;
                holders.find(inside).map(|s| s.computed -= 1).is_some()
            }
            Self::LoseSequence => running.pop().is_some(),
            Self::MiscountPinned => {
                *num_pinned += 1;
                true
            }
            Self::LoseFollower => {
                let mut leaders = seqs.iter_mut().filter(|(_, s)| !s.followers.is_empty());
                leaders.next().and_then(|(_, s)| s.followers.pop()).is_some()
            }
            Self::LoseDeadline => deadlines.pop_first().is_some(),
            _ => false,
        }
    }

    /// Plants it in what the backend is told.
    pub(super) fn in_step(self, step: &mut Step) -> bool {
        let sampling = |s: &&mut SeqStep| s.outputs.iter().any(|o| o.sample);
        let Some(seq) = step.seqs.iter_mut().find(sampling) else { return false };
        let table = &seq.block_tables[0];
        match self {
            Self::WrongToken => match &mut seq.tokens[0] {
                Source::Host(token) => {
                    *token = TokenId(u32::from(token.0 == 0));
                    true
                }
                Source::Slot => false,
            },
            Self::WrongPosition => {
                let Source::Host(position) = seq.positions[0] else { return false };
                seq.positions[0] = Source::Host(position + 1);
                true
            }
            Self::WrongKvStart => {
                let Source::Host(start) = seq.kv_start else { return false };
                seq.kv_start = Source::Host(start.saturating_sub(1));
                start > 0
            }
            Self::SwapBlocks if table.len() > 1 => {
                let mut blocks = table.to_vec();
                blocks.swap(0, 1);
                seq.block_tables[0] = blocks.into();
                seq.kv_start != Source::Host(0)
            }
            Self::NullBlock => {
                seq.block_tables[0] = replaced(table, 0, BlockId::NULL);
                true
            }
            Self::ShortTable => {
                seq.block_tables[0] = table[1..].into();
                true
            }
            Self::NoSample => {
                seq.outputs.pop();
                true
            }
            // A reset that follows another use of the slot; without it the slot still is the
            // other's.
            Self::NoReset => step.resets.pop().is_some(),
            Self::NoCopy => step.copies.pop().is_some(),
            _ => false,
        }
    }

    /// Plants it in what the backend says.
    pub(super) fn in_output(self, output: &mut StepOutput) -> bool {
        let sampled: Vec<usize> =
            (0..output.rows.len()).filter(|&i| output.rows[i].token.is_some()).collect();
        match self {
            Self::SwapRows => {
                let Some(&[a, b, ..]) = sampled.get(..2) else { return false };
                let tokens = [a, b].map(|i| output.rows[i].token);
                [output.rows[b].token, output.rows[a].token] = tokens;
                tokens[0] != tokens[1]
            }
            Self::LoseRow => output.rows.pop().is_some(),
            _ => false,
        }
    }

    /// Plants it in what the engine is told.
    pub(super) fn in_events(self, events: &mut Vec<SeqEvent>) -> bool {
        match self {
            Self::LoseEvent => events.pop().is_some(),
            Self::RepeatEvent => {
                let Some(SeqEvent::Finished { seq, reason }) = events.last() else { return false };
                let again = SeqEvent::Finished { seq: *seq, reason: *reason };
                events.push(again);
                true
            }
            Self::SwapEvents => {
                let at = events.windows(2).position(|pair| pair[0].seq() == pair[1].seq());
                at.map(|at| events.swap(at, at + 1)).is_some()
            }
            _ => false,
        }
    }
}

fn replaced(table: &[BlockId], at: usize, block: BlockId) -> Arc<[BlockId]> {
    let mut blocks = table.to_vec();
    blocks[at] = block;
    blocks.into()
}

/// Of the walks in which `fault` was planted: how many there were, and what each that failed said.
fn plant(fault: Fault) -> (usize, Vec<String>) {
    let walks = (0..300).map(|seed| Walk::run(seed, Some(fault)));
    let results: Vec<_> = walks.filter(|(planted, _)| *planted).map(|(_, result)| result).collect();
    (results.len(), results.into_iter().filter_map(Result::err).collect())
}

/// `check` sees a broken invariant at once, whatever happens later.
#[test]
fn check_finds_every_fault_in_the_state() {
    for fault in IN_STATE {
        let (planted, messages) = plant(fault);
        assert!(planted >= 10, "{fault:?} was planted in {planted} walks");
        assert_eq!(messages.len(), planted, "{fault:?} was missed");
        let elsewhere = messages.iter().find(|m| !m.starts_with("scheduler invariant broken: "));
        assert_eq!(elsewhere, None, "{fault:?} was not found by check");
    }
}

/// What happens outside shows as soon as a token that depends on it is seen, which an aborted
/// sequence never brings.
#[test]
fn walks_find_faults_in_steps_outputs_and_events() {
    let mut found = BTreeMap::new();
    for fault in ELSEWHERE {
        let (planted, messages) = plant(fault);
        assert!(planted >= 10, "{fault:?} was planted in {planted} walks");
        found.insert(fault, (messages.len(), planted));
    }
    let missed: Vec<_> = found.iter().filter(|(_, (caught, planted))| caught * 10 < planted * 7).collect();
    assert!(missed.is_empty(), "too few found: {missed:?} of {found:?}");
}
