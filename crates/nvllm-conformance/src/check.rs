//! Runs a trial on a backend beside the anchored reference, and properties over trials.

use nvllm_core::{Backend, BlockId, EntryId, Executable, KvCache, KvGeometry, Op};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

use crate::anchor::{Anchored, first_difference};
use crate::bound::fused_key;
use crate::error::{Difference, Doing, Mismatch, Result};
use crate::source::Counted;
use crate::trial::Trial;

/// How a case is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Seed of the generators.
    pub seed: u64,
    /// Runs of each property; a case may take a share of it.
    pub num_trials: u32,
    /// Steps that shrinking may take; 0: report the first counterexample as it is.
    pub max_shrink_iters: u32,
}

impl Default for Settings {
    /// 24 trials from a fixed seed. `PROPTEST_CASES` and `PROPTEST_RNG_SEED`, which proptest reads,
    /// override both.
    fn default() -> Self {
        Self::of(24)
    }
}

impl Settings {
    /// As the default, with so many trials: for a backend that takes its time.
    pub fn of(num_trials: u32) -> Self {
        let proptest = Config::default();
        let seed = if let RngSeed::Fixed(seed) = proptest.rng_seed { seed } else { 0x006e_764c_4c4d };
        let num_trials = if proptest.cases == BUILT_IN_CASES { num_trials } else { proptest.cases };
        Self { seed, num_trials, max_shrink_iters: 256 }
    }
}

/// What proptest runs if nobody says otherwise: too many for programs of this size.
const BUILT_IN_CASES: u32 = 256;

/// Holds `test` for `settings.num_trials * share` draws of `strategy`.
pub(crate) fn holds<S: Strategy>(
    case: &str,
    settings: &Settings,
    share: f64,
    strategy: S,
    test: impl Fn(&S::Value) -> Result<()>,
) -> Result<()> {
    let config = Config {
        cases: ((f64::from(settings.num_trials) * share).ceil() as u32).max(1),
        max_shrink_iters: settings.max_shrink_iters,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(settings.seed),
        ..Config::default()
    };
    let failed = |reason: String, input: String| Mismatch::Property {
        case: case.into(),
        seed: settings.seed,
        reason,
        input,
    };
    TestRunner::new(config)
        .run(&strategy, |input| test(&input).map_err(|mismatch| TestCaseError::fail(mismatch.to_string())))
        .map_err(|error| match error {
            TestError::Fail(reason, input) => failed(reason.message().into(), format!("{input:?}")),
            TestError::Abort(reason) => failed(reason.message().into(), "no input".into()),
        })
}

/// Loads the trial on `backend`, with its cache full of values that nothing may read.
pub(crate) fn load(backend: &dyn Backend, trial: &Trial) -> Result<Box<dyn Executable>> {
    let source = Counted::new(&trial.source);
    let plan = backend.plan(&trial.spec, &source, &trial.limits).doing("plan")?;
    let (planned, programs) = (plan.memory, plan.spec.programs.clone());
    if let Some((name, num)) = source.beyond(0) {
        return Err(Mismatch::contract(format!("plan asks for the bytes of `{name}` {num} times")));
    }
    let mut exe = backend.load(plan, &source).doing("load")?;
    if let Some((name, num)) = source.beyond(1) {
        return Err(Mismatch::contract(format!("load asks for the bytes of `{name}` {num} times")));
    }
    let allocated = exe.memory();
    let exact = [
        (planned.weights, allocated.weights),
        (planned.kv, allocated.kv),
        (planned.scratch, allocated.scratch),
    ];
    if exact.iter().any(|(planned, allocated)| planned != allocated) || planned.arena < allocated.arena {
        return Err(Mismatch::contract(format!("{planned} are planned and {allocated} are allocated")));
    }
    let mut entries = (0..=programs.len() as u32).map(EntryId);
    if let Some(entry) = entries.find(|&entry| exe.program(entry) != programs.get(entry.index())) {
        return Err(Mismatch::contract(format!("program {entry} is not as planned")));
    }
    let geometries = KvGeometry::plan(&trial.spec.kv, &trial.limits).doing("KvGeometry::plan")?;
    for (group, expected) in geometries.into_iter().enumerate() {
        poison(exe.kv_cache(), group, expected)?;
    }
    // Some of what a backend prepares, so that steps run with it and without.
    for _ in 0..trial.layout.placement % 8 {
        exe.prepare(true).doing("prepare")?;
    }
    Ok(exe)
}

/// Fills every block with a large number: a key or value that was never written and is read all the
/// same shows. (A number and not a NaN: multiplying a masked position by 0 is a fair way to mask
/// it.)
fn poison(cache: &mut dyn KvCache, group: usize, expected: KvGeometry) -> Result<()> {
    let geometry = cache.geometry(group);
    if geometry != expected {
        return Err(Mismatch::contract(format!(
            "the KV geometry is {geometry:?}; the limits say {expected:?}"
        )));
    }
    let block = geometry.encode_block(&vec![30_000.0; geometry.num_layers * geometry.layer_block_len()]);
    (0..geometry.num_blocks as u32)
        .try_for_each(|id| cache.write_block(group, BlockId(id), &block))
        .doing("write_block")
}

/// Runs the trial's steps on `backend` and holds every kept value, and the KV cache, to the
/// reference.
pub(crate) fn conforms(backend: &dyn Backend, trial: &Trial) -> Result<()> {
    conforms_to(backend, trial, trial)
}

/// As [`conforms`], to the reference over the weights of `twin`, which is the same trial but for
/// them.
pub(crate) fn conforms_to(backend: &dyn Backend, trial: &Trial, twin: &Trial) -> Result<()> {
    let mut exe = load(backend, trial)?;
    let mut reference = Anchored::new(twin)?;
    for (at, step) in trial.steps().iter().enumerate() {
        let ticket = exe.submit(step).doing("submit")?;
        let output = exe.collect(ticket).doing("collect")?;
        drop(output);
        exe.prepare(false).doing("prepare")?;
        reference.follow(at, step, trial, &*exe)?;
    }
    same_cache(trial, exe.kv_cache(), reference.executable().kv_cache())
}

/// Compares the written positions of both caches.
fn same_cache(trial: &Trial, theirs: &mut dyn KvCache, ours: &mut dyn KvCache) -> Result<()> {
    let program = &trial.spec.programs[0];
    let appended = |op: &Op| match op {
        Op::KvAppend { kv } => Some((*kv, false)),
        Op::Attention { kv, .. } => Some((*kv, true)),
        _ => None,
    };
    for (kv, fused) in program.nodes.iter().filter_map(|node| appended(&node.op)) {
        for (seq, (table, len)) in trial.layout.tables(kv.group).iter().zip(trial.layout.lens()).enumerate() {
            let geometry = theirs.geometry(kv.group);
            for (at, &block) in table.iter().enumerate().take(len.div_ceil(geometry.block_len)) {
                let written = geometry.block_len.min(len - at * geometry.block_len);
                let got = theirs.read_block(kv.group, block).doing("read_block")?;
                let want = ours.read_block(kv.group, block).doing("the reference's read_block")?;
                let got = geometry.decode_block(&got).doing("decoding a block")?;
                let want = geometry.decode_block(&want).doing("decoding a block")?;
                let place = format!("kv_append: {kv}, sequence {seq}, block {at}");
                same_block(trial, &geometry, [kv.layer, written], fused, &got, &want, &place)?;
            }
        }
    }
    Ok(())
}

/// Compares one layer of a block, `[k|v, head, offset, column]`, up to `written` offsets.
fn same_block(
    trial: &Trial,
    g: &KvGeometry,
    [layer, written]: [usize; 2],
    fused: bool,
    got: &[f32],
    want: &[f32],
    place: &str,
) -> Result<()> {
    let rows = 2 * g.num_heads;
    for row in 0..rows {
        let start = (layer * rows + row) * g.block_len * g.head_dim;
        let range = start..start + written * g.head_dim;
        let (got, want) = (&got[range.clone()], &want[range]);
        // Values are copies everywhere; keys have passed norm and rope if the op is fused.
        let is_key = row < g.num_heads;
        let allowed = |i: usize, _, _| {
            let head = &want[i - i % g.head_dim..][..g.head_dim];
            (fused && is_key).then(|| fused_key(trial.limits.activations, g.format, head, i % g.head_dim))
        };
        if let Some((i, allowed, num_bad)) = first_difference(got, want, allowed) {
            let part = if is_key { "key" } else { "value" };
            return Err(Mismatch::Value(Box::new(Difference {
                step: trial.layout.num_steps() - 1,
                line: format!("{place}: {part} head {}, row = offset", row % g.num_heads),
                row: i / g.head_dim,
                col: i % g.head_dim,
                got: got[i],
                expected: want[i],
                allowed,
                num_bad,
                num_values: got.len(),
            })));
        }
    }
    Ok(())
}
