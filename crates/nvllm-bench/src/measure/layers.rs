//! Programs of nothing but linear layers, and their steps: what rates are measured with.

use std::sync::Arc;

use nvllm_core::weight::AxisRole;
use nvllm_core::{
    Activations, InlineVec, Limits, ModelSpec, Result, SamplingParams, SeqStep, SlotId, SlotReset, Source,
    SpecBuilder, Step, TokenId,
};

/// Rows of the table that x is looked up in.
const TABLE_ROWS: usize = 64;

/// Layers one after another over x of `k` columns, which make `outs` columns each; steps of at most
/// `rows` tokens.
pub(super) fn spec(k: usize, outs: &[usize], rows: usize) -> Result<ModelSpec> {
    let mut builder = SpecBuilder::new();
    let mut matrix = |name: String, rows, k| {
        let part = (name.clone(), rows, AxisRole::Replicated);
        builder.matrix(name, k, AxisRole::Replicated, [part])
    };
    let table = matrix("table".into(), TABLE_ROWS, k);
    let ins = std::iter::once(&k).chain(outs);
    let pairs = ins.zip(outs).enumerate();
    let weights: Vec<_> = pairs.map(|(at, (&k, &n))| matrix(format!("weight{at}"), n, k)).collect();
    let mut program = builder.program("product");
    let x = program.embed(table);
    weights.into_iter().fold(x, |x, weight| program.linear(x, weight));
    let programs = vec![program.finish()?];
    Ok(builder.finish("linear layers", programs, TABLE_ROWS, rows))
}

/// One step of `rows` tokens at a time, without a cache.
pub(super) fn limits(rows: usize, activations: Activations) -> Limits {
    Limits::new(activations, 1, rows)
}

/// One sequence of `rows` tokens, from nothing.
pub(super) fn step(rows: usize) -> Step {
    let slot = SlotId(0);
    let none: Arc<[TokenId]> = Arc::from([]);
    let reset = SlotReset {
        slot,
        prompt: Arc::clone(&none),
        output: none,
        sampling: Arc::new(SamplingParams::default()),
    };
    let seq = SeqStep {
        slot,
        tokens: (0..rows).map(|i| Source::Host(TokenId((i % TABLE_ROWS) as u32))).collect(),
        positions: (0..rows as u32).map(Source::Host).collect(),
        kv_start: Source::Host(0),
        block_tables: InlineVec::new(),
        outputs: InlineVec::new(),
    };
    Step { resets: vec![reset], seqs: vec![seq], ..Step::default() }
}
