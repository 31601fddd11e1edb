//! KV groups with a sliding window: blocks that no token sees any more are given back.

use nvllm_core::{Backend, BlockId, KvGeometry, Source, Step};
use proptest::prelude::*;

use crate::check::{Settings, holds, load};
use crate::error::{Doing, Mismatch, Result};
use crate::layout::{Layout, Outputs, layouts, long};
use crate::models::{Shape, logits, run};
use crate::trial::{Trial, numbers};

/// Models of windowed layers, alone and beside one that sees everything, over ragged batches with
/// prompts in chunks and single tokens after them.
fn trials(backend: &dyn Backend) -> impl Strategy<Value = Trial> + use<> {
    // Of one position, within a block and a chunk, at a boundary of blocks, beyond a chunk.
    let window = prop_oneof![
        Just(1_usize),
        Just(5),
        Just(16),
        Just(17),
        Just(48),
        Just(64),
        Just(100),
        Just(256),
        Just(300)
    ];
    let windows = (window.clone(), window, 0..3_usize).prop_map(|(a, b, kind)| match kind {
        0 => vec![Some(a)],
        1 => vec![None, Some(a)],
        _ => vec![Some(a), Some(b)],
    });
    let rows = prop_oneof![3 => Just(1_usize), 2 => Just(19_usize), 1 => Just(111_usize)];
    let layouts = prop_oneof![3 => layouts(rows, 200).boxed(), 2 => long().boxed()];
    let block_len = prop_oneof![Just(1_usize), Just(3), Just(16), Just(64)];
    let shape = (prop_oneof![Just(8_usize), Just(64), Just(128)], 1..3_usize, 1..4_usize);
    (numbers(backend), layouts, block_len, windows, shape).prop_map(
        |(numbers, layout, block_len, windows, (head_dim, num_kv, group))| {
            let shape = Shape::of_heads(windows.len(), [head_dim, num_kv, group], true);
            let layout = Layout { block_len, outputs: Outputs::All, logits: true, ..layout };
            shape.grouped(numbers.for_heads(head_dim), layout, &windows)
        },
    )
}

/// The blocks at the front of a table that a sequence with `kv_start` tokens may have given back:
/// as the suite says, whatever core does.
fn unseen(g: &KvGeometry, kv_start: usize) -> usize {
    let seen =
        |block: &usize| g.window.is_none_or(|window| (block + 1) * g.block_len + window > kv_start + 1);
    (0..=kv_start).find(seen).unwrap_or(0)
}

fn kv_start(source: Source<u32>) -> usize {
    if let Source::Host(start) = source { start as usize } else { 0 }
}

/// The step with the null block in place of all blocks that are not seen, and those.
fn given_back(step: &Step, kv: &[KvGeometry]) -> (Step, Vec<(usize, BlockId)>) {
    let (mut step, mut blocks) = (step.clone(), Vec::new());
    for seq in &mut step.seqs {
        let start = kv_start(seq.kv_start);
        for (group, (table, g)) in seq.block_tables.iter_mut().zip(kv).enumerate() {
            let (gone, kept) = table.split_at(unseen(g, start));
            blocks.extend(gone.iter().map(|&block| (group, block)));
            *table = gone.iter().map(|_| BlockId::NULL).chain(kept.iter().copied()).collect();
        }
    }
    (step, blocks)
}

/// Steps without a block that they need: the first one that a token still sees.
fn spoiled(step: &Step, kv: &[KvGeometry]) -> impl Iterator<Item = Step> {
    (0..kv.len()).map(|group| {
        let (mut step, g) = (step.clone(), &kv[group]);
        let seq = &mut step.seqs[0];
        let mut table = seq.block_tables[group].to_vec();
        table[unseen(g, kv_start(seq.kv_start))] = BlockId::NULL;
        seq.block_tables[group] = table.into();
        step
    })
}

/// Tables name the null block where no token sees a position: the same logits, bit for bit, as
/// with all blocks in place, whatever lies in the blocks that were given back and in the null
/// block. A table that lacks a block which is seen is refused.
pub fn window_blocks(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("window_blocks", settings, 1.5, trials(backend), |trial| {
        let kv = KvGeometry::plan(&trial.spec.kv, &trial.limits).doing("KvGeometry::plan")?;
        let (mut all, mut few) = (load(backend, trial)?, load(backend, trial)?);
        let nothing = |g: &KvGeometry| g.encode_block(&vec![f32::NAN; g.num_layers * g.layer_block_len()]);
        let nothing: Vec<_> = kv.iter().map(nothing).collect();
        for (group, block) in nothing.iter().enumerate() {
            few.kv_cache().write_block(group, BlockId::NULL, block).doing("write_block")?;
        }
        for step in trial.steps() {
            let want = logits(&run(&mut *all, &step)?)?;
            let (less, blocks) = given_back(&step, &kv);
            for (group, block) in blocks {
                few.kv_cache().write_block(group, block, &nothing[group]).doing("write_block")?;
            }
            for bad in spoiled(&less, &kv) {
                if few.submit(&bad).is_ok() {
                    return Err(Mismatch::contract(
                        "window_blocks: a step without a block that it sees was accepted",
                    ));
                }
            }
            let got = logits(&run(&mut *few, &less)?)?;
            let differs =
                got.iter().flatten().zip(want.iter().flatten()).any(|(a, b)| a.to_bits() != b.to_bits());
            if differs || got.len() != want.len() {
                let problem = format!("step {} has other logits than with all blocks in place", step.id);
                return Err(Mismatch::contract(format!("window_blocks: {problem}")));
            }
        }
        Ok(())
    })
}
