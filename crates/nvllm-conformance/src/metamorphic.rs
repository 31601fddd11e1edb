//! The same values, whatever else is in the step: bit for bit, on one backend, without an oracle.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nvllm_core::program::Counts;
use nvllm_core::{Backend, BlockId, EntryId, Executable, HostTensor, OrderId, RowsOf, SlotId, Source, Step};
use proptest::prelude::*;

use crate::anchor::kept;
use crate::check::{Settings, holds, load};
use crate::draw::Draw;
use crate::error::{Doing, Mismatch, Result};
use crate::layout::{Layout, Outputs, layouts};
use crate::models::{self, run};
use crate::ops::layers;
use crate::trial::Trial;

/// Bits of every kept value at every token: by sequence, index and place of the value in the
/// program.
type Trace = BTreeMap<(usize, usize, usize), Vec<u32>>;

/// Models with every value kept, or the logits alone, so that ops may be fused.
fn trials(backend: &dyn Backend) -> impl Strategy<Value = Trial> + use<> {
    (models::trials(backend), any::<bool>()).prop_map(|((_, trial), all)| {
        let layout = Layout { outputs: Outputs::All, ..trial.layout.clone() };
        let mut trial = trial.with_layout(layout);
        if all {
            return trial.keep_all();
        }
        trial.spec.keep("logits").expect("the suite's models have logits");
        trial
    })
}

/// Models, and linear layers alone: plain and fused, of extents that small models do not have.
fn models_and_layers(backend: &dyn Backend) -> impl Strategy<Value = Trial> + use<> {
    // Rows enough for kernels that a small model's steps do not reach.
    let rows = prop_oneof![Just(19_usize), Just(111_usize), Just(300_usize)];
    let linear = layers(backend, layouts(rows, 0)).prop_map(|layer| {
        let forms = layer.trial(2, |p, x, projection, _| {
            p.linear_silu_mul(x, projection);
            let y = p.linear(x, projection);
            p.linear_add(x, projection, y);
        });
        forms.keep_all()
    });
    prop_oneof![2 => trials(backend).boxed(), 1 => linear.boxed()]
}

/// One kernel order for every number of rows: what `Numerics::Invariant` means.
fn orders_are_one(backend: &dyn Backend, trial: &Trial) -> Result<()> {
    let exe = load(backend, trial)?;
    let (entry, program) = (EntryId::default(), &trial.spec.programs[0].name);
    let orders = |rows: usize| -> Vec<OrderId> {
        let stages = exe.schedule(entry, &Counts::decode(rows, 1));
        stages.into_iter().flat_map(|stage| stage.orders).collect()
    };
    let one = orders(1);
    let nodes = exe.program(entry).map_or(&[][..], |program| &program.nodes);
    if one.len() != nodes.len() {
        let problem = format!("{} of {} nodes of `{program}` are scheduled", one.len(), nodes.len());
        return Err(Mismatch::contract(problem));
    }
    for rows in [2, 3, 8, 19, 64, 111, 989] {
        let many = orders(rows);
        if let Some(node) = (0..one.len()).find(|&node| many.get(node) != one.get(node)) {
            let problem = format!("{:?} for 1 row and {:?} for {rows}", one[node], many.get(node));
            let stem = nodes[node].op.stem();
            let text = format!("`{stem}` has two orders under Numerics::Invariant: {problem}");
            return Err(Mismatch::contract(text));
        }
    }
    Ok(())
}

/// Runs the steps; `before` sees the executable and the steps that are left.
fn trace_with(
    backend: &dyn Backend,
    trial: &Trial,
    mut before: impl FnMut(usize, &mut dyn Executable, &mut [Step]) -> Result<()>,
) -> Result<Trace> {
    let mut exe = load(backend, trial)?;
    let slots: HashMap<SlotId, usize> =
        trial.layout.slots().into_iter().enumerate().map(|(i, s)| (s, trial.layout.first + i)).collect();
    let (mut trace, mut steps) = (Trace::new(), trial.steps());
    for at in 0..steps.len() {
        before(at, &mut *exe, &mut steps[at..])?;
        run(&mut *exe, &steps[at])?;
        let (mut tokens, mut outputs) = (Vec::new(), Vec::new());
        for seq in &steps[at].seqs {
            let Source::Host(start) = seq.kv_start else { continue };
            let owner = |index: usize| (slots[&seq.slot], start as usize + index);
            tokens.extend((0..seq.tokens.len()).map(owner));
            outputs.extend(seq.outputs.iter().map(|o| owner(o.index as usize)));
        }
        for (id, value) in trial.spec.programs[0].values.iter().enumerate().filter(|(_, v)| v.keep) {
            let owners = if value.rows.of == RowsOf::Outputs { &outputs } else { &tokens };
            let shape = [value.rows.times * owners.len(), value.cols];
            let label = value.label.clone().unwrap_or_default();
            let all = kept(&*exe, &label, shape, value.kind.dtype(&trial.limits))?.to_f32();
            for (&(seq, index), row) in owners.iter().zip(all.chunks(value.rows.times * value.cols)) {
                trace.insert((seq, index, id), row.iter().map(|x| x.to_bits()).collect());
            }
        }
    }
    Ok(trace)
}

fn trace(backend: &dyn Backend, trial: &Trial) -> Result<Trace> {
    trace_with(backend, trial, |_, _, _| Ok(()))
}

/// Requires that `other` holds nothing but what `base` holds, bit for bit.
fn same(trial: &Trial, what: &str, base: &Trace, other: &Trace) -> Result<()> {
    for (key @ (seq, index, id), got) in other {
        let Some(want) = base.get(key) else {
            return Err(Mismatch::contract(format!("{what}: sequence {seq} has no token {index}")));
        };
        if let Some(col) = (0..got.len()).find(|&c| got.get(c) != want.get(c)) {
            let program = &trial.spec.programs[0];
            let line = program
                .nodes
                .iter()
                .find(|n| n.outputs.iter().any(|o| o.index() == *id))
                .map(|n| program.line(n))
                .unwrap_or_default();
            let (got, want) = (f32::from_bits(got[col]), f32::from_bits(want[col]));
            let place = format!("sequence {seq}, token {index}, column {col}");
            return Err(Mismatch::contract(format!(
                "{what}: `{line}`: {place}: {got:e} and {want:e} differ"
            )));
        }
    }
    Ok(())
}

/// A token's values do not depend on what else is in the batch: one sequence alone, one token at a
/// time and all together.
pub fn batch_invariance(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("batch_invariance", settings, 1.0, models_and_layers(backend), |trial| {
        orders_are_one(backend, trial)?;
        let base = trace(backend, trial)?;
        for (i, chunks) in trial.layout.seqs.iter().enumerate() {
            let layout = Layout { seqs: vec![chunks.clone()], first: i, ..trial.layout.clone() };
            let alone = trace(backend, &trial.with_layout(layout))?;
            same(trial, "a sequence alone and in a batch", &base, &alone)?;
        }
        let shuffled = Layout { placement: trial.layout.placement ^ 0xabcd, ..trial.layout.clone() };
        let other = trace(backend, &trial.with_layout(shuffled))?;
        same(trial, "other slots, another order in the step", &base, &other)
    })
}

/// Whole prompts and chunks of any size, single tokens among them.
pub fn chunk_invariance(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("chunk_invariance", settings, 1.0, models_and_layers(backend), |trial| {
        orders_are_one(backend, trial)?;
        let base = trace(backend, trial)?;
        let mut draw = Draw::new(trial.layout.placement ^ 0xb);
        let lens = trial.layout.lens();
        let whole: Vec<_> = lens.iter().map(|&len| vec![len]).collect();
        let ragged = lens.iter().map(|&len| draw.split(len, 4)).collect();
        let single = lens.iter().map(|&len| vec![1; len]).collect();
        for (what, seqs) in [("whole prompts", whole), ("other chunks", ragged), ("single tokens", single)] {
            let other = trace(backend, &trial.with_layout(Layout { seqs, ..trial.layout.clone() }))?;
            same(trial, what, &base, &other)?;
        }
        Ok(())
    })
}

/// Page size and page placement.
pub fn page_invariance(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("page_invariance", settings, 0.7, trials(backend), |trial| {
        let base = trace(backend, trial)?;
        for block_len in [1, 5, 16, 64] {
            let layout = Layout { block_len, blocks: trial.layout.blocks ^ 0x77, ..trial.layout.clone() };
            let other = trace(backend, &trial.with_layout(layout))?;
            same(trial, &format!("pages of {block_len}"), &base, &other)?;
        }
        Ok(())
    })
}

/// Blocks that leave for the host between two steps and come back elsewhere, some copied on the
/// device.
pub fn moved_blocks(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = trials(backend).prop_filter("more than one step", |t| t.layout.num_steps() > 1);
    holds("moved_blocks", settings, 0.7, trials, |trial| {
        let base = trace(backend, trial)?;
        let last = trial.layout.num_steps() - 1;
        let other = trace_with(backend, trial, |at, exe, steps| {
            if at != last {
                return Ok(());
            }
            let (from, to) = (trial.layout.tables(0), relocated(trial));
            relocate(exe, &from, &to)?;
            for seq in steps.iter_mut().flat_map(|s| &mut s.seqs) {
                let moved = from.iter().position(|t| **t == *seq.block_tables[0]).map(|i| Arc::clone(&to[i]));
                seq.block_tables = moved.into_iter().collect();
            }
            Ok(())
        })?;
        same(trial, "moved blocks", &base, &other)
    })
}

/// Other places for the same tables.
fn relocated(trial: &Trial) -> Vec<Arc<[BlockId]>> {
    Layout { blocks: trial.layout.blocks ^ 0x55, ..trial.layout.clone() }.tables(0)
}

/// Moves every block by way of the host, spoils what was there, and copies one block there and back
/// on the device.
fn relocate(exe: &mut dyn Executable, from: &[Arc<[BlockId]>], to: &[Arc<[BlockId]>]) -> Result<()> {
    let cache = exe.kv_cache();
    let geometry = cache.geometry(0);
    let pairs: Vec<_> = from
        .iter()
        .zip(to)
        .flat_map(|(a, b)| a.iter().copied().zip(b.iter().copied()))
        .filter(|(a, b)| *a != BlockId::NULL && *b != BlockId::NULL)
        .collect();
    let held: Vec<HostTensor> = pairs
        .iter()
        .map(|(from, _)| cache.read_block(0, *from))
        .collect::<nvllm_core::Result<_>>()
        .doing("read_block")?;
    let spoiled = geometry.encode_block(&vec![-30_000.0; geometry.num_layers * geometry.layer_block_len()]);
    for block in 0..geometry.num_blocks as u32 {
        cache.write_block(0, BlockId(block), &spoiled).doing("write_block")?;
    }
    for ((_, to), block) in pairs.iter().zip(&held) {
        cache.write_block(0, *to, block).doing("write_block")?;
    }
    let taken = |block: &BlockId| pairs.iter().any(|(_, to)| to == block);
    let free = (1..geometry.num_blocks as u32).map(BlockId).find(|b| !taken(b));
    if let (Some(free), Some(&(_, first))) = (free, pairs.first()) {
        cache.copy_blocks(0, &[(first, free)]).doing("copy_blocks")?;
        cache.write_block(0, first, &spoiled).doing("write_block")?;
        cache.copy_blocks(0, &[(free, first)]).doing("copy_blocks")?;
    }
    Ok(())
}
