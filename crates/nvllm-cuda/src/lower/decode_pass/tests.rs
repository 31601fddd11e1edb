//! Schedules of models: run in random orders of blocks, and held to their check, which finds
//! planted faults.

use std::ops::Range;

use nvllm_core::ValueId;
use proptest::prelude::*;

use super::check::Machine;
use super::phase::{ATTENTION, FOLD, LINEAR, NO_TAG, OUT_F32, Phase, SILU};
use super::record::{Pass, Recorded};
use super::schedule::Schedule;
use crate::memory::Address;

/// The shapes of a model.
#[derive(Clone, Copy, Debug)]
struct Model {
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    ffn: usize,
    vocab: usize,
}

const SMALL: Model = Model { layers: 3, hidden: 128, heads: 4, kv_heads: 2, dim: 64, ffn: 192, vocab: 320 };

const ROOM: Range<Address> = 1 << 20..1 << 24;

impl Model {
    fn attention(&self) -> [usize; 2] {
        [self.heads + 2 * self.kv_heads, self.heads].map(|n| n * self.dim)
    }

    fn machine(&self, blocks: usize) -> Machine {
        Machine { blocks, multiprocessors: blocks, attention: self.attention() }
    }

    /// Its schedule: as `record` makes phases of a program's nodes.
    fn schedule(&self, blocks: usize) -> Schedule {
        let mut pass = Pass::default();
        let mut cols = vec![self.hidden];
        let mut value = |n| {
            cols.push(n);
            ValueId(cols.len() as u32 - 1)
        };
        let mut h = ValueId(0);
        let mut add = |phase, x, y, residual| pass.phases.push(Recorded { phase, weight: 1, x, y, residual });
        let [qkv_cols, attn_cols] = self.attention();
        for _ in 0..self.layers {
            let [qkv, attn, o, gate, down] =
                [qkv_cols, attn_cols, self.hidden, self.ffn, self.hidden].map(&mut value);
            add(Phase::linear(self.hidden, qkv_cols, 0), h, qkv, None);
            let of_kind = |kind| Phase { kind, ..Phase::default() };
            add(of_kind(ATTENTION), qkv, attn, None);
            add(of_kind(FOLD), qkv, attn, None);
            add(Phase::linear(attn_cols, self.hidden, 0), attn, o, Some(h));
            add(Phase::linear(self.hidden, self.ffn, SILU), o, gate, None);
            add(Phase::linear(self.ffn, self.hidden, 0), gate, down, Some(o));
            h = down;
        }
        let logits = value(self.vocab);
        add(Phase::linear(self.hidden, self.vocab, OUT_F32), h, logits, None);
        let plain = |id: ValueId| (ROOM.end + ((1 + id.index()) << 24) as Address, cols[id.index()]);
        Schedule::new(&mut pass, blocks, [self.kv_heads, 512 * self.dim * 2], ROOM, plain).unwrap()
    }
}

/// What a block does next.
enum Action {
    /// Waits until all of these bytes have the tag.
    Read(Range<Address>, u32),
    Write(Range<Address>, u32),
    /// Waits until so many have arrived at a phase.
    Wait(usize, usize),
    Arrive(usize),
}

/// All that `block` does in a launch whose tags begin at `base`; every sequence's keys are cut into
/// two chunks if `folds`.
fn actions(s: &Schedule, machine: &Machine, block: usize, base: u32, folds: bool) -> Vec<Action> {
    let mut all = Vec::new();
    let units = 4;
    let mine = |first: u32, num: usize| {
        let first = (block + machine.blocks - first as usize) % machine.blocks;
        (first..num).step_by(machine.blocks)
    };
    let part = |at: Address, cols: usize, i: usize, num: usize| {
        let bytes = (cols * 4) as Address;
        at + bytes * i as Address / num as Address..at + bytes * (i + 1) as Address / num as Address
    };
    let read = |all: &mut Vec<Action>, at, tag: i32| {
        if tag != NO_TAG {
            all.push(Action::Read(at, base + tag as u32));
        }
    };
    let write = |all: &mut Vec<Action>, at, tag: i32| {
        if tag != NO_TAG {
            all.push(Action::Write(at, base + tag as u32));
        }
    };
    let [x_cols, y_cols] = machine.attention;
    for (at, phase) in s.phases.iter().enumerate() {
        let tiles = phase.tiles as usize;
        match phase.kind {
            LINEAR if mine(phase.first_block, tiles).next().is_some() => {
                read(&mut all, part(phase.x, phase.k as usize, 0, 1), phase.x_tag);
                for tile in mine(phase.first_block, tiles) {
                    if phase.residual != 0 {
                        let at = part(phase.residual, phase.outputs as usize, tile, tiles);
                        read(&mut all, at, phase.residual_tag);
                    }
                    write(&mut all, part(phase.y, phase.outputs as usize, tile, tiles), phase.y_tag);
                }
            }
            ATTENTION if mine(phase.first_block, units).next().is_some() => {
                for unit in mine(phase.first_block, units) {
                    read(&mut all, part(phase.x, x_cols, unit, units), phase.x_tag);
                    if !folds {
                        write(&mut all, part(phase.y, y_cols, unit, units), phase.y_tag);
                    }
                }
                all.push(Action::Arrive(at));
            }
            FOLD if folds => {
                for unit in mine(phase.first_block, units) {
                    all.push(Action::Wait(at - 1, units.min(machine.blocks)));
                    write(&mut all, part(phase.y, y_cols, unit, units), phase.y_tag);
                }
            }
            _ => {}
        }
    }
    all
}

/// Runs launches with blocks that go on in a random order; errors if none can go on.
fn run(
    s: &Schedule,
    machine: &Machine,
    launches: u32,
    mut draw: impl FnMut(usize) -> usize,
) -> Result<(), String> {
    const GRAIN: Address = 16;
    let grains = |at: &Range<Address>| {
        ((at.start - ROOM.start) / GRAIN) as usize..((at.end - ROOM.start).div_ceil(GRAIN)) as usize
    };
    let mut memory = vec![0_u32; 1 << 20];
    for launch in 0..launches {
        let base = (launch + 1) * (s.phases.len() as u32 + 1);
        let all = (0..machine.blocks).map(|block| actions(s, machine, block, base, launch % 2 == 1));
        let mut left: Vec<_> = all.map(|actions| actions.into_iter().peekable()).collect();
        let mut arrived = vec![0; s.phases.len()];
        while left.iter_mut().any(|actions| actions.peek().is_some()) {
            let ready = |action: &Action| match action {
                Action::Read(at, tag) => memory[grains(at)].iter().all(|found| found == tag),
                Action::Wait(phase, num) => arrived[*phase] >= *num,
                Action::Write(..) | Action::Arrive(_) => true,
            };
            let able: Vec<usize> =
                (0..left.len()).filter(|&block| left[block].peek().is_some_and(ready)).collect();
            if able.is_empty() {
                return Err(format!("no block goes on in launch {launch}"));
            }
            match left[able[draw(able.len())]].next() {
                Some(Action::Write(at, tag)) => memory[grains(&at)].fill(tag),
                Some(Action::Arrive(phase)) => arrived[phase] += 1,
                _ => {}
            }
        }
    }
    Ok(())
}

fn model() -> impl Strategy<Value = Model> {
    (1_usize..4, 1_usize..4, 1_usize..3, 1_usize..3, 1_usize..5, 1_usize..30).prop_map(
        |(layers, hidden, kv_heads, group, ffn, vocab)| Model {
            layers,
            hidden: 64 * hidden,
            heads: kv_heads * group,
            kv_heads,
            dim: 64,
            ffn: 64 * ffn,
            vocab: 16 * vocab,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn blocks_end_in_every_order_and_the_check_finds_nothing(
        model in model(),
        blocks in 1_usize..12,
        seed in any::<u64>(),
    ) {
        let (schedule, machine) = (model.schedule(blocks), model.machine(blocks));
        prop_assert_eq!(schedule.check(&machine), Ok(()));
        let mut state = seed | 1;
        // Some orders keep to one block for long, which leaves others far behind.
        let keep = seed % 3 != 0;
        let draw = |num: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let drawn = (state >> 33) as usize;
            if keep && !drawn.is_multiple_of(16) { 0 } else { drawn % num }
        };
        prop_assert_eq!(run(&schedule, &machine, 3, draw), Ok(()));
    }
}

#[test]
fn the_shapes_of_qwen3_on_a_hopper_have_no_fault() {
    let model =
        Model { layers: 28, hidden: 1024, heads: 16, kv_heads: 8, dim: 128, ffn: 3072, vocab: 151_936 };
    assert_eq!(model.schedule(132).check(&model.machine(132)), Ok(()));
}

/// The plan of memory lets the logits lie where the embedding was.
#[test]
fn what_nobody_reads_any_more_may_be_written() {
    let (mut schedule, machine) = (SMALL.schedule(8), SMALL.machine(8));
    let last = schedule.phases.len() - 1;
    schedule.phases[last].y = schedule.phases[0].x;
    assert_eq!(schedule.check(&machine), Ok(()));
}

/// Asserts that the check of `SMALL`'s schedule with a fault says `words`.
#[track_caller]
fn planted(words: &str, fault: impl FnOnce(&mut Schedule, &mut Machine)) {
    let (mut schedule, mut machine) = (SMALL.schedule(8), SMALL.machine(8));
    fault(&mut schedule, &mut machine);
    let found = schedule.check(&machine).expect_err(words);
    assert!(found.contains(words), "{found}");
}

#[test]
fn planted_faults_are_found() {
    // qkv 0, attention 1, fold 2, o 3, gate_up 4, down 5; the next layer from 6 on; the head 18.
    planted("8 blocks wait for each other; 7 run at once", |_, machine| machine.multiprocessors = 7);
    planted("phase 4 waits for phase 5, which is not before it", |s, _| s.phases[4].x_tag = 5);
    planted("phase 3 waits for phase 3, which is not before it", |s, _| s.phases[3].x_tag = 3);
    planted("phase 4 writes with the tag 3 of another", |s, _| s.phases[4].y_tag = 3);
    planted("phase 3 does not read what phase 0 writes", |s, _| s.phases[3].x_tag = 0);
    planted("phase 3 multiplies another weight than comes next", |s, _| s.phases.swap(3, 4));
    planted("phase 1 folds what the phase before it did not begin", |s, _| s.phases.swap(1, 2));
    planted("phase 2 folds what the phase before it did not begin", |s, _| s.phases[2].y += 128);
    planted("phase 4 does not read what phase 3 writes", |s, _| s.phases[3].y += 8);
    planted("phase 4 reads plain rows where phase 3 writes", |s, _| s.phases[4].x_tag = NO_TAG);
    planted("phase 4 may write while blocks are still in phase 4 there", |s, _| {
        let place = s.phases[3].y;
        (s.phases[4].y, s.phases[5].x) = (place, place);
    });
    planted("overwrites what phase 17 reads of phase 3", |s, _| {
        (s.phases[17].residual, s.phases[17].residual_tag) = (s.phases[3].y, 3);
    });
    planted("writes where there is no place", |s, _| s.phases[4].y = ROOM.end - 8);
    planted("writes where there is no place", |s, _| s.phases[4].y = ROOM.start);
    planted("phase 0 begins with block 8; there are 8", |s, _| {
        (s.phases[0].first_block, s.weights[0].first_block) = (8, 8);
    });
    planted("phase 4 does not cover its weight", |s, _| {
        s.phases[4].tiles -= 1;
        s.weights[2].tiles -= 1;
    });
    planted("phase 3 multiplies another weight than comes next", |s, _| s.weights.swap(1, 2));
    planted("a weight comes that no phase multiplies", |s, _| s.weights.push(s.weights[0]));
    planted("phase 2 is of kind 7", |s, _| s.phases[2].kind = 7);
    planted("phase 4 multiplies another weight than comes next", |s, _| s.weights[2].whole -= 1);
    planted("phase 4 multiplies another weight than comes next", |s, _| s.maps[2].rows -= 1);
    planted("phase 3 multiplies another weight than comes next", |s, _| s.maps[1].boxes[0].ranges = 1);
    planted("attention begins with other blocks in another layer", |s, _| s.phases[7].first_block += 1);
    planted("the last phase multiplies no weight", |s, _| {
        s.phases.truncate(14);
        s.weights.truncate(9);
        s.maps.truncate(9);
    });
}

/// A place that is written again in the phase after its last reader: attention reads a part of what
/// it waits for, so some block may still be in the phase before.
#[test]
fn a_place_that_is_written_again_too_soon_is_found_and_can_hang() {
    let (mut schedule, machine) = (SMALL.schedule(8), SMALL.machine(8));
    // Attention of the second layer writes where qkv before it reads.
    let (down, qkv, attention) = (5, 6, 7);
    let place = schedule.phases[down].y;
    for at in [attention, attention + 1] {
        schedule.phases[at].y = place;
    }
    schedule.phases[attention + 2].x = place;
    let words = format!("phase {attention} may write while blocks are still in phase {qkv} there");
    assert_eq!(schedule.check(&machine), Err(words));
    let hangs = (0..64_u64).any(|seed| {
        let mut state = seed;
        run(&schedule, &machine, 2, |num| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % num
        })
        .is_err()
    });
    assert!(hangs, "no order of blocks was hurt by it");
}
