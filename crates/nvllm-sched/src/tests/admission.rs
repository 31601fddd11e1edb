//! Who is admitted when, and what of the cache it takes over, to the block.

use nvllm_core::{BlockId, Step};

use super::executor::Executor;
use super::model::Rng;
use super::turns::{CONFIG, prompt, running, scheduler, turn, with_blocks};
use crate::{GroupConfig, NewSequence, SchedConfig, Scheduler, SeqEvent, TenantId};

/// A prompt that brings as many tokens into each step as that has output rows.
fn slow(len: u32) -> NewSequence {
    NewSequence { logits: true, max_tokens: Some(0), ..prompt(len) }
}

fn salted(len: u32) -> NewSequence {
    NewSequence { cache_salt: Some("own".into()), ..prompt(len) }
}

/// Of 200 blocks two are held, three are needed by the sequence that holds them, and two are the
/// watermark, which is not kept from those who are more urgent than it.
#[test]
fn admission_leaves_the_blocks_that_running_sequences_need_and_the_watermark() {
    let is_admitted = |priority, num_blocks: u32| {
        let config = SchedConfig { context: 1000, max_positions: 1000, max_in_flight: 2, ..with_blocks(201) };
        let mut sched = Scheduler::new(config).unwrap();
        sched.add(slow(20)).unwrap();
        sched.plan().unwrap();
        sched.add(NewSequence { priority, ..salted(4 * num_blocks) }).unwrap();
        sched.plan().unwrap();
        sched.check().unwrap();
        !sched.admitted().is_empty()
    };
    assert_eq!([193, 194].map(|num_blocks| is_admitted(0, num_blocks)), [true, false]);
    assert_eq!([195, 196].map(|num_blocks| is_admitted(-1, num_blocks)), [true, false]);
}

/// A window of 6 reaches into 3 blocks of 4. After 12 tokens, one in each step, the running
/// sequence has had 3 and given 1 back, so that it needs one more; the other one needs 3.
#[test]
fn blocks_behind_a_window_are_not_counted_as_held() {
    let num_admitted = |num_blocks| {
        let window = GroupConfig { num_blocks, window: Some(6) };
        let groups = [with_blocks(40).groups, vec![window]].concat();
        let config = SchedConfig { groups, step_outputs: 1, ..with_blocks(40) };
        let mut pair = (Scheduler::new(config.clone()).unwrap(), Executor::new(&config));
        pair.0.add(slow(24)).unwrap();
        (0..11).for_each(|_| assert!(turn(&mut pair).is_some()));
        pair.0.add(salted(12)).unwrap();
        turn(&mut pair).unwrap();
        pair.0.admitted().len()
    };
    assert_eq!([7, 6].map(num_admitted), [1, 0]);
}

/// Without a window all free blocks; with one, those that the other sequence will need stay.
#[test]
fn a_chunk_behind_a_window_leaves_others_the_blocks_that_they_need() {
    let window = GroupConfig { num_blocks: 9, window: Some(6) };
    let groups = [with_blocks(40).groups, vec![window]].concat();
    let mut sched = Scheduler::new(SchedConfig { groups, step_outputs: 2, ..with_blocks(40) }).unwrap();
    sched.add(slow(24)).unwrap();
    sched.add(salted(24)).unwrap();
    let step = sched.plan().unwrap();
    assert_eq!(step.seqs.iter().map(|seq| seq.tokens.len()).collect::<Vec<_>>(), [2, 6]);
    // They hold 1 and 2 blocks, and need 3 of the second group at once.
    assert_eq!([0, 1].map(|group| sched.available(sched.running[0], group, usize::MAX)), [36, 4]);
}

/// Of 8 blocks the one that runs holds 1 and needs 2 more: 5 are left to the new one, which has
/// tokens for 6.
#[test]
fn so_does_the_first_chunk_of_a_prompt() {
    let window = GroupConfig { num_blocks: 9, window: Some(6) };
    let groups = [with_blocks(40).groups, vec![window]].concat();
    let config = SchedConfig { groups, step_tokens: 40, step_outputs: 2, ..with_blocks(40) };
    let mut sched = Scheduler::new(config).unwrap();
    sched.add(slow(24)).unwrap();
    sched.add(salted(24)).unwrap();
    let step = sched.plan().unwrap();
    assert_eq!(step.seqs.iter().map(|seq| seq.tokens.len()).collect::<Vec<_>>(), [2, 20]);
}

#[test]
fn a_prefix_is_taken_over_without_the_blocks_that_a_window_has_passed() {
    let window = GroupConfig { num_blocks: 20, window: Some(5) };
    let config = SchedConfig { groups: [with_blocks(20).groups, vec![window]].concat(), ..with_blocks(20) };
    let mut pair = (Scheduler::new(config.clone()).unwrap(), Executor::new(&config));
    pair.0.add(prompt(13)).unwrap();
    while turn(&mut pair).is_some() {}
    pair.0.add(prompt(13)).unwrap();
    let step: Step = turn(&mut pair).unwrap();
    let null = |table: &[BlockId]| table.iter().map(|block| *block == BlockId::NULL).collect::<Vec<_>>();
    assert_eq!(pair.0.admitted()[0].cached_tokens, 12);
    let tables = &step.seqs[0].block_tables;
    assert_eq!([null(&tables[0]), null(&tables[1])], [[false; 4], [true, true, false, false]]);
}

/// Of 5 blocks the one that runs holds 4. The new one shares 3 of them and needs 1.
#[test]
fn shared_blocks_that_are_held_already_take_no_free_ones() {
    let mut pair = scheduler(&CONFIG, 6);
    pair.0.add(prompt(13)).unwrap();
    (0..2).for_each(|_| assert!(turn(&mut pair).is_some()));
    pair.0.add(prompt(13)).unwrap();
    turn(&mut pair).unwrap();
    assert_eq!(pair.0.admitted().iter().map(|admitted| admitted.cached_tokens).collect::<Vec<_>>(), [12]);
    assert_eq!(pair.0.stats().used_blocks, 5);
}

#[test]
fn choices_wait_until_the_last_chunk_of_their_prompt_is_computed() {
    let mut pair = scheduler(&CONFIG, 40);
    pair.0.add_choices(&prompt(20), 2).unwrap();
    let lens = |step: Step| step.seqs.iter().map(|seq| seq.tokens.len()).collect::<Vec<_>>();
    let steps: Vec<_> = (0..4).map(|_| lens(turn(&mut pair).unwrap())).collect();
    assert_eq!(steps, [vec![8], vec![8], vec![4], vec![1, 1]]);
}

/// A model without KV groups has nothing that a prefix could be found in.
#[test]
fn nothing_is_cached_where_there_is_no_cache() {
    let mut sched = Scheduler::new(SchedConfig { tenant_weights: vec![1], ..CONFIG }).unwrap();
    sched.add(prompt(8)).unwrap();
    sched.plan().unwrap();
    assert_eq!(sched.admitted()[0].cached_tokens, 0);
}

/// Running sequences go first: an urgent one preempts only where the step has tokens left for it.
#[test]
fn a_full_step_preempts_nobody() {
    let mut pair = scheduler(&SchedConfig { step_tokens: 1, seqs: 1, ..CONFIG }, 40);
    let first = pair.0.add(prompt(1)).unwrap();
    turn(&mut pair).unwrap();
    pair.0.add(NewSequence { priority: -1, ..salted(1) }).unwrap();
    turn(&mut pair).unwrap();
    assert_eq!((running(&pair.0), pair.0.stats().totals.num_preemptions), (vec![first], 0));
}

/// Tenants that always wait are served by their weights, whatever prompts, cached prefixes and
/// outputs their sequences have, and every sequence ends. Output tokens are charged when they are
/// committed: those of all running sequences may still be missing.
#[test]
fn tenants_are_served_by_their_weights() {
    let (longest, most) = (14, 6);
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let weights: Vec<u32> = (0..rng.range(2..=3)).map(|_| rng.range(1..=3) as u32).collect();
        let seqs = rng.range(1..=3);
        let config = SchedConfig { seqs, tenant_weights: weights.clone(), ..with_blocks(60) };
        let mut pair = (Scheduler::new(config.clone()).unwrap(), Executor::new(&config));
        let (mut owners, mut served) = (Vec::new(), vec![0; weights.len()]);
        let mut waiting = vec![0; weights.len()];
        let mut num_ended = 0;
        for _ in 0..1000 {
            for (tenant, waiting) in waiting.iter_mut().enumerate() {
                while *waiting <= seqs {
                    // The first tenant's prompts begin alike.
                    let cache_salt = (tenant > 0).then(|| format!("{}", owners.len()).into());
                    let len = if tenant > 0 { rng.range(1..=longest) } else { longest };
                    let max_tokens = Some(rng.range(1..=most));
                    let tenant_id = TenantId(tenant as u32);
                    let new = NewSequence { max_tokens, cache_salt, tenant: tenant_id, ..prompt(len as u32) };
                    pair.0.add(new).unwrap();
                    owners.push((tenant, len));
                    *waiting += 1;
                }
            }
            let owner = |seq: nvllm_core::SeqId| owners[seq.0 as usize - 1];
            pair.1.submit(&pair.0.plan().unwrap()).unwrap();
            for admitted in pair.0.admitted() {
                let (tenant, len) = owner(admitted.seq);
                waiting[tenant] -= 1;
                served[tenant] += len - admitted.cached_tokens;
            }
            let (id, output) = pair.1.collect().unwrap();
            for event in pair.0.commit(id, output).unwrap() {
                served[owner(event.seq()).0] += usize::from(matches!(event, SeqEvent::Token { .. }));
                num_ended += usize::from(matches!(event, SeqEvent::Finished { .. }));
            }
            let shares = || served.iter().zip(&weights).map(|(n, weight)| *n as f64 / f64::from(*weight));
            let (least, largest) = (shares().fold(f64::MAX, f64::min), shares().fold(0.0, f64::max));
            let bound = (config.step_tokens + 2 * (longest + seqs * most)) as f64;
            assert!(largest - least <= bound, "seed {seed}: {served:?} by {weights:?}");
        }
        let alive = waiting.iter().sum::<usize>() + pair.0.stats().num_running;
        assert_eq!(num_ended + alive, owners.len(), "seed {seed}");
        assert_eq!(pair.0.stats().totals.num_preemptions, 0);
    }
}
