//! Policy: who goes first, who waits, and that steps overlap.

use std::collections::VecDeque;
use std::sync::Arc;

use nvllm_core::{RowOutput, SamplingParams, SeqId, Source, Step, StepOutput, TokenId};

use super::executor::Executor;
use crate::{GroupConfig, NewSequence, SchedConfig, Scheduler, Totals};

pub(super) const CONFIG: SchedConfig = SchedConfig {
    step_tokens: 8,
    step_outputs: 4,
    seqs: 4,
    context: 32,
    max_positions: 32,
    block_len: 4,
    groups: Vec::new(),
    max_in_flight: 1,
    prefix_cache: true,
    tenant_weights: Vec::new(),
};

/// [`CONFIG`] with one KV group and one tenant.
pub(super) fn with_blocks(num_blocks: usize) -> SchedConfig {
    let groups = vec![GroupConfig { num_blocks, window: None }];
    SchedConfig { groups, tenant_weights: vec![1], ..CONFIG }
}

pub(super) fn prompt(len: u32) -> NewSequence {
    let tokens: Vec<TokenId> = (0..len).map(|i| TokenId(i % 10)).collect();
    let new = NewSequence::new(tokens, Arc::new(SamplingParams::default()));
    NewSequence { max_tokens: Some(4), ..new }
}

/// Who runs, in order of turns.
pub(super) fn running(sched: &Scheduler) -> Vec<SeqId> {
    sched.running.iter().map(|key| sched.seqs[*key].id).collect()
}

pub(super) fn scheduler(config: &SchedConfig, num_blocks: usize) -> (Scheduler, Executor) {
    let SchedConfig { groups, tenant_weights, .. } = with_blocks(num_blocks);
    let config = SchedConfig { groups, tenant_weights, ..config.clone() };
    (Scheduler::new(config.clone()).unwrap(), Executor::new(&config))
}

/// Runs one step to its end and returns it.
pub(super) fn turn((sched, executor): &mut (Scheduler, Executor)) -> Option<Step> {
    let step = sched.plan()?;
    executor.submit(&step).unwrap();
    let (id, output) = executor.collect().unwrap();
    sched.commit(id, output).unwrap();
    sched.check().unwrap();
    Some(step)
}

/// Prompts in chunks need no output rows, so that three sequences come to share two.
#[test]
fn nobody_is_passed_over_twice_in_a_row() {
    let mut pair = scheduler(&SchedConfig { step_outputs: 2, seqs: 3, ..CONFIG }, 40);
    for salt in ["a", "b", "c"] {
        let cache_salt = Some(salt.into());
        pair.0.add(NewSequence { max_tokens: Some(12), cache_salt, ..prompt(5) }).unwrap();
    }
    while pair.0.running.len() < 3 {
        turn(&mut pair).expect("work");
    }
    let order: Vec<Vec<u32>> =
        (0..4).map(|_| turn(&mut pair).expect("work").seqs.iter().map(|s| s.slot.0).collect()).collect();
    assert_eq!(order, [[0, 1], [2, 0], [1, 2], [0, 1]]);
}

#[test]
fn a_prompt_takes_what_decoding_sequences_leave() {
    let mut pair = scheduler(&CONFIG, 40);
    pair.0.add(prompt(2)).unwrap();
    turn(&mut pair);
    pair.0.add(prompt(20)).unwrap();
    let lens = |step: Step| step.seqs.iter().map(|s| s.tokens.len()).collect::<Vec<_>>();
    assert_eq!(lens(turn(&mut pair).unwrap()), [1, 7]);
    assert_eq!(lens(turn(&mut pair).unwrap()), [1, 7]);
    assert_eq!(lens(turn(&mut pair).unwrap()), [1, 6]);
}

#[test]
fn single_tokens_go_before_chunks_that_began_earlier() {
    let mut pair = scheduler(&CONFIG, 40);
    pair.0.add(NewSequence { logits: true, max_tokens: Some(0), ..prompt(10) }).unwrap();
    pair.0.add(prompt(3)).unwrap();
    let parts = |step: Step| step.seqs.iter().map(|s| (s.slot.0, s.tokens.len())).collect::<Vec<_>>();
    assert_eq!(parts(turn(&mut pair).unwrap()), [(0, 4), (1, 2)], "the first takes all output rows");
    assert_eq!(parts(turn(&mut pair).unwrap()), [(1, 1), (0, 3)]);
}

#[test]
fn output_rows_bound_a_chunk() {
    let mut pair = scheduler(&CONFIG, 40);
    pair.0.add(NewSequence { logits: true, max_tokens: Some(0), ..prompt(10) }).unwrap();
    let lens: Vec<_> =
        std::iter::from_fn(|| turn(&mut pair)).map(|s| (s.num_tokens(), s.num_outputs())).collect();
    assert_eq!(lens, [(4, 4), (4, 4), (2, 2)]);
}

#[test]
fn the_queue_is_by_priority_then_arrival_and_nobody_overtakes_its_head() {
    // 5 blocks of 4. The first holds one and needs another soon; the large one needs 4 and waits;
    // one would do for the late one, which waits behind it.
    let mut pair = scheduler(&CONFIG, 6);
    let first = pair.0.add(prompt(4)).unwrap();
    turn(&mut pair);
    let late = pair.0.add(NewSequence { priority: 1, ..prompt(1) }).unwrap();
    let large = pair.0.add(NewSequence { cache_salt: Some("own".into()), ..prompt(13) }).unwrap();
    let stats = pair.0.stats();
    assert_eq!((stats.num_waiting, stats.used_blocks, stats.total_blocks), (2, 1, 5));
    while running(&pair.0) == [first] {
        assert_eq!(turn(&mut pair).unwrap().seqs.len(), 1);
    }
    turn(&mut pair).unwrap();
    assert_eq!(running(&pair.0), [large], "it takes the whole step");
    turn(&mut pair).unwrap();
    assert_eq!(running(&pair.0), [large, late]);
}

#[test]
fn steps_overlap_and_take_the_last_token_from_the_slot() {
    let (mut sched, mut executor) = scheduler(&SchedConfig { max_in_flight: 2, ..CONFIG }, 40);
    sched.add(prompt(3)).unwrap();
    let steps: Vec<Step> = std::iter::from_fn(|| sched.plan()).collect();
    assert_eq!(steps.len(), 2);
    assert_eq!(steps[1].seqs[0].tokens[..], [Source::Slot]);
    assert_eq!(steps[1].seqs[0].positions[..], [Source::Host(3)]);
    steps.iter().for_each(|step| executor.submit(step).unwrap());
    let (id, output) = executor.collect().unwrap();
    sched.commit(id, output).unwrap();
    assert_eq!(sched.plan().unwrap().seqs[0].tokens[..], [Source::Slot], "the last token is still in flight");
}

#[test]
fn what_an_ended_sequence_holds_is_pinned_while_its_steps_are_out() {
    let (mut sched, mut executor) = scheduler(&SchedConfig { seqs: 1, max_in_flight: 2, ..CONFIG }, 40);
    let seq = sched.add(prompt(3)).unwrap();
    sched.add(prompt(3)).unwrap();
    let steps: Vec<Step> = std::iter::from_fn(|| sched.plan()).collect();
    steps.iter().for_each(|step| executor.submit(step).unwrap());
    assert!(sched.abort(seq).is_some());
    let pinned = |sched: &Scheduler| (sched.stats().num_ending, sched.stats().used_blocks);
    assert_eq!(pinned(&sched), (1, 1));
    for (ending, planned) in [(1, false), (0, true)] {
        let (id, output) = executor.collect().unwrap();
        assert!(sched.commit(id, output).unwrap().is_empty(), "overrun tokens are dropped");
        sched.check().unwrap();
        assert_eq!(pinned(&sched), (ending, ending));
        assert_eq!(sched.plan().is_some(), planned);
    }
    assert!(sched.abort(seq).is_none() && sched.abort(SeqId(99)).is_none());
}

#[test]
fn totals_count_what_was_committed() {
    let mut pair = scheduler(&CONFIG, 40);
    let seqs = [9, 2].map(|len| pair.0.add(prompt(len)).unwrap());
    assert!(pair.0.admitted().is_empty());
    let mut admitted = Vec::new();
    while turn(&mut pair).is_some() {
        admitted.extend(pair.0.admitted().iter().map(|a| (a.seq, a.cached_tokens)));
    }
    assert_eq!(admitted, seqs.map(|seq| (seq, 0)));
    // The long prompt takes two steps, and the last of four tokens is sampled three steps later.
    let totals = Totals {
        num_steps: 5,
        num_prompt_tokens: 11,
        num_output_tokens: 8,
        num_queried_tokens: 11,
        ..Totals::default()
    };
    assert_eq!(pair.0.stats().totals, totals);
}

/// What a failed step should have written is found by nobody, whoever had ended before it failed.
#[test]
fn blocks_of_a_failed_step_are_not_published() {
    let config = SchedConfig { max_in_flight: 2, ..CONFIG };
    let (mut sched, mut executor) = scheduler(&config, 40);
    let seq = sched.add(prompt(17)).unwrap();
    let steps: Vec<Step> = std::iter::from_fn(|| sched.plan()).collect();
    steps.iter().for_each(|step| executor.submit(step).unwrap());
    sched.abort(seq).unwrap();
    sched.fail(executor.collect().unwrap().0).unwrap();
    let (id, output) = executor.collect().unwrap();
    sched.commit(id, output).unwrap();
    sched.add(prompt(17)).unwrap();
    sched.plan().unwrap();
    assert_eq!(sched.admitted()[0].cached_tokens, 0);
}

/// Nor is what was computed from numbers that are none, though its sequence had ended before.
#[test]
fn blocks_of_an_unusable_row_are_not_published() {
    let (mut sched, _) = scheduler(&CONFIG, 40);
    let seq = sched.add(prompt(8)).unwrap();
    let step = sched.plan().unwrap();
    sched.abort(seq).unwrap();
    let rows = vec![RowOutput { unusable: true, ..RowOutput::default() }];
    sched.commit(step.id, StepOutput { rows, ..StepOutput::default() }).unwrap();
    sched.add(prompt(9)).unwrap();
    sched.plan().unwrap();
    assert_eq!(sched.admitted()[0].cached_tokens, 0);
}

/// Chunks of a prompt take no block that another sequence goes on in, although their own windows
/// would give it back soon.
#[test]
fn a_prompt_behind_a_window_preempts_nobody() {
    let groups = vec![GroupConfig { num_blocks: 21, window: Some(4) }];
    let config = SchedConfig {
        step_tokens: 64,
        seqs: 3,
        context: 2100,
        max_positions: 2100,
        groups,
        max_in_flight: 3,
        prefix_cache: false,
        ..with_blocks(21)
    };
    let mut sched = Scheduler::new(config).unwrap();
    for len in [8, 8, 2000] {
        sched.add(NewSequence { max_tokens: Some(60), ..prompt(len) }).unwrap();
    }
    let mut steps: VecDeque<Step> = VecDeque::new();
    let mut num_steps = 0;
    while !sched.is_idle() {
        steps.extend(std::iter::from_fn(|| sched.plan()));
        let step = steps.pop_front().expect("a step");
        let row = || RowOutput { token: Some(TokenId(1)), ..RowOutput::default() };
        let rows = std::iter::repeat_with(row).take(step.num_outputs()).collect();
        let output = StepOutput { rows, ..StepOutput::default() };
        sched.commit(step.id, output).unwrap();
        sched.check().unwrap();
        num_steps += 1;
        assert!(num_steps < 1000, "{:?}", sched.stats());
    }
    assert_eq!(sched.stats().totals.num_preemptions, 0);
}

/// Admission leaves a hundredth of the blocks to those who run, and none if nobody does.
#[test]
fn a_watermark_is_kept_for_those_who_run() {
    // 300 blocks: 3 are kept, 100 are held, and one is needed next.
    let config = SchedConfig { context: 2000, max_positions: 2000, step_tokens: 2000, ..CONFIG };
    let own = |len: u32, salt: &str| NewSequence { cache_salt: Some(salt.into()), ..prompt(len) };
    for (len, admitted) in [(4 * 196, true), (4 * 197, false)] {
        let mut pair = scheduler(&config, 301);
        pair.0.add(own(4 * 100, "a")).unwrap();
        pair.0.add(own(len, "b")).unwrap();
        turn(&mut pair).unwrap();
        assert_eq!(pair.0.running.len() == 2, admitted, "{len}");
    }
    let mut alone = scheduler(&config, 301);
    alone.0.add(own(4 * 300 - 3, "a")).unwrap();
    turn(&mut alone).unwrap();
    assert_eq!(alone.0.running.len(), 1);
}

/// An urgent sequence that would not fit even without the less urgent ones stops none of them.
#[test]
fn nobody_is_preempted_in_vain() {
    let config = SchedConfig { context: 400, max_positions: 400, step_tokens: 400, seqs: 4, ..CONFIG };
    let with = |priority, len: u32, salt: &str| NewSequence {
        priority,
        cache_salt: Some(salt.into()),
        max_tokens: Some(20),
        ..prompt(len)
    };
    // 100 blocks: 51 are an equal's, 11 each of two less urgent ones'.
    let mut pair = scheduler(&config, 101);
    for new in [with(0, 200, "a"), with(5, 40, "b"), with(5, 40, "c")] {
        pair.0.add(new).unwrap();
        turn(&mut pair).unwrap();
    }
    for (len, num_preempted) in [(4 * 60, 0), (4 * 30, 1)] {
        let urgent = pair.0.add(with(0, len, "d")).unwrap();
        turn(&mut pair).unwrap();
        turn(&mut pair).unwrap();
        assert_eq!(pair.0.stats().totals.num_preemptions, num_preempted, "{len}");
        pair.0.abort(urgent);
    }
}

/// Three sequences fill the cache and one of them ends: the others wait for its block.
#[test]
fn nobody_is_preempted_while_blocks_are_on_their_way_back() {
    let config = SchedConfig { step_tokens: 12, max_in_flight: 2, ..CONFIG };
    let mut pair = scheduler(&config, 4);
    let seqs = ["a", "b", "c"].map(|salt| {
        let new = NewSequence { cache_salt: Some(salt.into()), ..prompt(3) };
        pair.0.add(new).unwrap()
    });
    turn(&mut pair).unwrap();
    let (mut sched, mut executor) = pair;
    executor.submit(&sched.plan().unwrap()).unwrap();
    assert!(sched.abort(seqs[2]).is_some());
    assert!(sched.plan().is_none());
    assert_eq!((running(&sched), sched.stats().totals.num_preemptions), (seqs[..2].to_vec(), 0));
    let (id, output) = executor.collect().unwrap();
    sched.commit(id, output).unwrap();
    assert_eq!(sched.plan().unwrap().seqs.len(), 1);
    sched.check().unwrap();
}

/// Runs `new` alone to its end; how many of its tokens were cached.
fn cached(pair: &mut (Scheduler, Executor), new: NewSequence) -> usize {
    pair.0.add(NewSequence { max_tokens: Some(0), ..new }).unwrap();
    turn(pair).expect("work");
    let cached = pair.0.admitted()[0].cached_tokens;
    while !pair.0.is_idle() {
        turn(pair).expect("work");
    }
    cached
}

/// A reset of the prefix cache while a sequence runs: what it has computed is not found, nor what
/// it goes on to compute.
#[test]
fn after_a_reset_a_running_sequence_leaves_nothing_to_be_found() {
    let mut pair = scheduler(&CONFIG, 40);
    pair.0.add(NewSequence { max_tokens: Some(8), ..prompt(9) }).unwrap();
    for _ in 0..3 {
        turn(&mut pair).expect("work");
    }
    pair.0.reset_prefix_cache();
    pair.0.check().unwrap();
    // The first two blocks anew, by another sequence, and then the third by the one that runs.
    pair.0.add(NewSequence { max_tokens: Some(0), ..prompt(9) }).unwrap();
    turn(&mut pair).expect("work");
    assert_eq!(pair.0.admitted()[0].cached_tokens, 0);
    let tokens = |seq: &crate::sequence::Sequence| [&*seq.new.prompt, &*seq.output].concat();
    let mut all = Vec::new();
    while !pair.0.is_idle() {
        all = tokens(&pair.0.seqs[0]);
        turn(&mut pair).expect("work");
    }
    assert!(all.len() > 12, "{all:?}");
    assert_eq!(cached(&mut pair, NewSequence { prompt: all.into(), ..prompt(0) }), 8);
}

/// Who is preempted computes everything anew, and others find that.
#[test]
fn what_is_computed_anew_after_a_reset_is_found() {
    let mut pair = scheduler(&SchedConfig { seqs: 1, ..CONFIG }, 40);
    let runs = pair.0.add(NewSequence { priority: 1, ..prompt(9) }).unwrap();
    turn(&mut pair).expect("work");
    pair.0.reset_prefix_cache();
    pair.0.add(NewSequence { cache_salt: Some("other".into()), ..prompt(2) }).unwrap();
    while running(&pair.0) == [runs] {
        turn(&mut pair);
    }
    while !pair.0.is_idle() {
        turn(&mut pair);
    }
    assert_eq!(pair.0.stats().totals.num_preemptions, 1);
    assert_eq!(cached(&mut pair, prompt(9)), 8);
}

/// Choices that were not admitted yet do not share what was computed before a reset.
#[test]
fn after_a_reset_other_choices_compute_the_prompt_themselves() {
    for (is_reset, cached) in [(false, 7), (true, 0)] {
        let mut pair = scheduler(&CONFIG, 40);
        pair.0.add_choices(&prompt(8), 2).unwrap();
        turn(&mut pair).expect("work");
        if is_reset {
            pair.0.reset_prefix_cache();
        }
        turn(&mut pair).expect("work");
        assert_eq!(pair.0.admitted()[0].cached_tokens, cached);
    }
}
