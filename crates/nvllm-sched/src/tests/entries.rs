//! Sequences of two entry programs: steps of one entry each, and none that starves the other.

use std::sync::Arc;

use nvllm_core::{EntryId, SamplingParams, SeqId, Step};

use super::turns::{CONFIG, prompt, running, scheduler, turn};
use super::walk::Walk;
use crate::{NewSequence, SchedConfig, SeqEvent};

impl Walk {
    /// A step runs the same entry as the one before only if no sequence of another entry, running
    /// `before` it was planned and after, could have run the next of its tokens.
    pub(super) fn check_entry(&mut self, step: &Step, before: &[SeqId]) -> Result<(), String> {
        let is_same = self.last_entry.replace(step.entry) == Some(step.entry);
        let sched = &self.sched;
        let could_run = |key: &&usize| {
            let seq = &sched.seqs[**key];
            let is_other = seq.new.entry != step.entry && before.contains(&seq.id);
            is_other && seq.num_pending(seq.computed) > 0 && sched.covers(**key, seq.computed + 1)
        };
        if let Some(key) = sched.running.iter().find(could_run).filter(|_| is_same) {
            let seq = &sched.seqs[*key];
            return Err(format!("sequence {} of entry {} waits for a second step", seq.id, seq.new.entry));
        }
        self.counts.alternated += usize::from(!is_same);
        let rows = step.seqs.iter().flat_map(|seq| &seq.outputs);
        let is_embedding = |row: &&nvllm_core::OutputRow| row.values && !row.sample && !row.scored();
        self.counts.embedded += rows.filter(is_embedding).count();
        Ok(())
    }
}

/// A prompt whose last row is all that is wanted of it.
fn embedding(len: u32) -> NewSequence {
    NewSequence { entry: EntryId(1), last_row: true, max_tokens: Some(0), ..prompt(len) }
}

#[test]
fn an_embedding_is_the_row_of_the_last_token_and_ends() {
    let (mut sched, mut executor) = scheduler(&SchedConfig { max_in_flight: 2, ..CONFIG }, 40);
    let seq = sched.add(embedding(19)).unwrap();
    let mut shapes = Vec::new();
    let mut events = Vec::new();
    while !sched.is_idle() {
        while let Some(step) = sched.plan() {
            shapes.push((step.entry.0, step.num_tokens(), step.num_outputs()));
            executor.submit(&step).unwrap();
        }
        let (id, output) = executor.collect().unwrap();
        events.extend(sched.commit(id, output).unwrap());
        sched.check().unwrap();
    }
    assert_eq!(shapes, [(1, 8, 0), (1, 8, 0), (1, 3, 1)]);
    let [SeqEvent::PromptRow { seq: of, index: 18, logprobs: None, logits: Some(_) }, end] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((*of, end.seq()), (seq, seq));
    assert!(format!("{end:?}").contains("Length"), "{end:?}");
}

/// The entry that has waited longer goes first; one that has nothing to run takes no turn.
#[test]
fn entries_take_turns_while_both_have_work() {
    let mut pair = scheduler(&CONFIG, 40);
    let tokens = |n| NewSequence { max_tokens: Some(n), ..prompt(3) };
    pair.0.add(tokens(9)).unwrap();
    let entries =
        |pair: &mut _, n: usize| -> Vec<u32> { (0..n).map(|_| turn(pair).expect("work").entry.0).collect() };
    assert_eq!(entries(&mut pair, 3), [0, 0, 0]);
    pair.0.add(NewSequence { cache_salt: Some("own".into()), ..embedding(20) }).unwrap();
    // It is new, so it is first; three chunks.
    assert_eq!(entries(&mut pair, 5), [1, 0, 1, 0, 1]);
    assert_eq!(entries(&mut pair, 4), [0, 0, 0, 0]);
    assert!(turn(&mut pair).is_none() && pair.0.is_idle());
}

#[test]
fn a_stream_of_embeddings_keeps_nobody_from_generating() {
    let mut pair = scheduler(&CONFIG, 60);
    let generating = pair.0.add(NewSequence { max_tokens: Some(6), ..prompt(3) }).unwrap();
    let mut steps = 0;
    while !pair.0.is_idle() && (steps == 0 || running(&pair.0).contains(&generating)) {
        if pair.0.stats().num_waiting < 3 {
            pair.0.add(embedding(7)).unwrap();
        }
        turn(&mut pair).expect("work");
        steps += 1;
    }
    assert!(steps <= 12, "six tokens take {steps} steps");
}

/// Keys and values are the same whichever program stored them.
#[test]
fn sequences_of_one_entry_find_the_prefixes_of_another() {
    let mut pair = scheduler(&CONFIG, 40);
    let mut cached = |new: NewSequence| {
        pair.0.add(new).unwrap();
        let mut cached = 0;
        while turn(&mut pair).is_some() {
            cached += pair.0.admitted().iter().map(|admitted| admitted.cached_tokens).sum::<usize>();
        }
        cached
    };
    let asked = || NewSequence { sampling: Arc::new(SamplingParams::default()), ..prompt(10) };
    assert_eq!([cached(asked()), cached(embedding(10)), cached(asked())], [0, 8, 8]);
    assert_eq!(cached(embedding(13)), 8);
}
