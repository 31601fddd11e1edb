//! Faults planted in the scheduler's state, in its steps, in a backend's output and in the events:
//! a walk that does not find them would prove nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use nvllm_core::{BlockId, EntryId, SeqId, SeqStep, SlotId, Source, Step, StepOutput, TokenId};

use super::walk::Walk;
use crate::prefix::BlockHash;
use crate::sequence::{Phase, Sequence};
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
    WriteShared,
    LoseWaiting,
    KeepEnded,
    LoseAllocation,
    WrongId,
    ExtraId,
    TooManySteps,
    RepeatStepId,
    ComputeUnknown,
    RunLast,
    SampleTooMany,
    OutputTooMuch,
    ReportUnknown,
    ExceedContext,
    ComputeWaiting,
    ExtraTable,
    ExtraGivenBack,
    NullInTable,
    PublishUncommitted,
    CommitUncomputed,
    ForeignSlot,
    ForgetCopied,
    MixEntries,
    WrongToken,
    WrongPosition,
    WrongKvStart,
    SwapBlocks,
    NullBlock,
    NoReset,
    NoCopy,
    ShortTable,
    NoSample,
    WrongEntry,
    SwapRows,
    LoseRow,
    LoseEvent,
    RepeatEvent,
    SwapEvents,
}

/// Each with words of the message that names it.
const IN_STATE: [(Fault, &str); 40] = [
    (Fault::LeakBlock, "counted 1 times"),
    (Fault::FreeEarly, "and counted"),
    (Fault::ShareBlock, ""),
    (Fault::MissBlock, "tokens"),
    (Fault::LeakSlot, "slots leaked"),
    (Fault::ShareSlot, "is held twice"),
    (Fault::MiscountSteps, "steps in flight and counts"),
    (Fault::MiscountSamples, "samples"),
    (Fault::SkipToken, "tokens computed"),
    (Fault::LoseSequence, "take turns"),
    (Fault::ForgetPinned, "with a step in flight"),
    (Fault::MiscountPinned, "are pinned and counted"),
    (Fault::LoseFollower, "are followers"),
    (Fault::LoseDeadline, "deadlines are not"),
    (Fault::WrongHash, "found by another hash"),
    (Fault::PublishOpen, "has published"),
    (Fault::GiveBackSeen, "that no row sees"),
    (Fault::WriteShared, "which others hold"),
    (Fault::LoseWaiting, "are queued"),
    (Fault::KeepEnded, "is not forgotten"),
    (Fault::LoseAllocation, "should not hold"),
    (Fault::WrongId, "by their ids"),
    (Fault::ExtraId, "by their ids"),
    (Fault::TooManySteps, "steps are in flight"),
    (Fault::RepeatStepId, "out of order"),
    (Fault::ComputeUnknown, "has computed"),
    (Fault::RunLast, "has computed"),
    (Fault::SampleTooMany, "samples"),
    (Fault::OutputTooMuch, "samples"),
    (Fault::ReportUnknown, "has reported"),
    (Fault::ExceedContext, "more than the context"),
    (Fault::ComputeWaiting, "waits with"),
    (Fault::ExtraTable, "block tables for"),
    (Fault::ExtraGivenBack, "block tables for"),
    (Fault::NullInTable, "that no row sees"),
    (Fault::PublishUncommitted, "has published"),
    (Fault::CommitUncomputed, "has published"),
    (Fault::ForeignSlot, "does not exist"),
    (Fault::ForgetCopied, "block"),
    (Fault::MixEntries, "of several entries"),
];

const ELSEWHERE: [Fault; 15] = [
    Fault::WrongToken,
    Fault::WrongPosition,
    Fault::WrongKvStart,
    Fault::SwapBlocks,
    Fault::NullBlock,
    Fault::NoReset,
    Fault::NoCopy,
    Fault::ShortTable,
    Fault::NoSample,
    Fault::WrongEntry,
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
        self.in_blocks(sched) || self.in_counts(sched) || self.in_lists(sched) || self.in_numbers(sched)
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
            Self::WriteShared => {
                let open = holders.find(|s| !s.computed.is_multiple_of(block_len));
                let held = open.and_then(|s| s.allocation.as_ref());
                let last = held.and_then(|held| held.tables[0].last());
                last.map(|block| pools[0].hold(*block)).is_some()
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

    /// In what finds sequences and steps.
    fn in_lists(self, sched: &mut Scheduler) -> bool {
        let Scheduler { seqs, keys, queue, in_flight, config, next_step, .. } = sched;
        match self {
            Self::LoseWaiting => {
                let waiting = seqs.iter().map(|(_, s)| s).find(|s| s.phase == Phase::Waiting);
                waiting.map(|s| queue.remove(s.place(), s.id)).is_some()
            }
            Self::KeepEnded => {
                let ended = seqs.iter_mut().map(|(_, s)| s).find(|s| s.is_finished());
                ended.map(|s| s.in_flight = 0).is_some()
            }
            Self::WrongId => {
                let first = seqs.iter().next().map(|(key, s)| (key, s.id));
                first.map(|(key, id)| (keys.remove(&id), keys.insert(SeqId(0), key))).is_some()
            }
            Self::ExtraId => keys.insert(SeqId(0), 0).is_none(),
            Self::TooManySteps if !in_flight.is_empty() => {
                config.max_in_flight = in_flight.len() - 1;
                true
            }
            Self::RepeatStepId => in_flight.back().map(|last| *next_step = last.id).is_some(),
            Self::ForgetCopied => in_flight.iter_mut().any(|flight| flight.copied.pop().is_some()),
            Self::MixEntries => {
                let several = in_flight.iter().find(|flight| flight.parts.len() > 1);
                several.map(|flight| seqs[flight.parts[0].key].new.entry = EntryId(7)).is_some()
            }
            _ => false,
        }
    }

    /// In one sequence's numbers and in what it holds.
    fn in_numbers(self, sched: &mut Scheduler) -> bool {
        let Scheduler { pools, seqs, config, .. } = sched;
        let mut all = seqs.iter_mut().map(|(_, s)| s);
        let holds = |s: &&mut Sequence| s.computed > 0;
        match self {
            Self::LoseAllocation => {
                let mut running = all.filter(|s| s.phase == Phase::Running);
                running.next().map(|s| s.allocation = None).is_some()
            }
            Self::ComputeUnknown => {
                let more_to_come = |s: &&mut Sequence| s.computed > 0 && s.known_len() < s.max_kv_len();
                all.find(more_to_come).map(|s| s.computed = s.known_len() + 1).is_some()
            }
            Self::RunLast => {
                let at_its_end = |s: &&mut Sequence| s.computed > 0 && s.known_len() > s.max_kv_len();
                all.find(at_its_end).map(|s| s.computed = s.known_len()).is_some()
            }
            Self::SampleTooMany => {
                let resumed = |s: &&mut Sequence| s.num_sampled > 0 && s.computed + 2 <= s.known_len();
                all.find(resumed).map(|s| s.max_tokens = s.num_sampled - 1).is_some()
            }
            Self::OutputTooMuch => {
                let ended = all.find(|s| s.is_finished());
                ended.map(|s| s.output.resize(s.num_sampled + 1, TokenId(0))).is_some()
            }
            Self::ReportUnknown => all.next().map(|s| s.reported = s.known_len()).is_some(),
            Self::ExceedContext => {
                all.next().map(|s| s.max_tokens = config.context - s.prompt_len() + 1).is_some()
            }
            Self::ComputeWaiting => all.find(|s| s.phase == Phase::Waiting).map(|s| s.computed = 1).is_some(),
            Self::ExtraTable => {
                let held = all.find_map(|s| s.allocation.as_mut());
                held.map(|held| held.tables.push(Arc::from([]))).is_some()
            }
            Self::ExtraGivenBack => {
                let held = all.find_map(|s| s.allocation.as_mut());
                held.map(|held| held.given_back.push(0)).is_some()
            }
            Self::NullInTable => {
                let Some(held) = all.find(holds).and_then(|s| s.allocation.as_mut()) else { return false };
                let at = held.tables[0].len() - 1;
                pools[0].release(&held.tables[0][at..]);
                held.tables[0] = replaced(&held.tables[0], at, BlockId::NULL);
                true
            }
            Self::PublishUncommitted => {
                let published = all.find(|s| s.num_published > 0);
                published.map(|s| s.committed = s.num_published * config.block_len - 1).is_some()
            }
            Self::CommitUncomputed => all.find(holds).map(|s| s.committed = s.computed + 1).is_some(),
            Self::ForeignSlot => {
                let held = all.find_map(|s| s.allocation.as_mut());
                held.map(|held| held.slot = SlotId(config.seqs as u32)).is_some()
            }
            _ => false,
        }
    }

    /// Plants it in what the backend is told.
    pub(super) fn in_step(self, step: &mut Step) -> bool {
        if self == Self::WrongEntry {
            step.entry = EntryId(1 - step.entry.0);
            return step.seqs.iter().any(|seq| !seq.outputs.is_empty());
        }
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
    for (fault, words) in IN_STATE {
        let (planted, messages) = plant(fault);
        assert!(planted >= 10, "{fault:?} was planted in {planted} walks");
        assert_eq!(messages.len(), planted, "{fault:?} was missed");
        let by_check = |m: &&String| m.starts_with("scheduler invariant broken: ") && m.contains(words);
        let elsewhere = messages.iter().find(|m| !by_check(m));
        assert_eq!(elsewhere, None, "{fault:?} was not found by the check for it");
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
