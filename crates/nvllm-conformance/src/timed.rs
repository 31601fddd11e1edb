//! Copies of one op on a backend, to be timed by whoever holds a clock: the backend's own profile
//! says what each took.

use std::ops::Range;
use std::sync::Arc;

use nvllm_core::program::Counts;
use nvllm_core::{
    Backend, BlockId, Executable, InlineVec, OutputRow, Plan, SamplingParams, SeqStep, SlotId, SlotReset,
    Source, Step, StepId, TokenId,
};

use crate::draw::Draw;
use crate::error::{Doing, Mismatch, Result};
use crate::extents::Extents;
use crate::trial::Trial;

/// What one op costs in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Bytes moved.
    pub bytes: f64,
    /// Multiplications and additions.
    pub flops: f64,
}

/// A loaded program of copies of one op.
pub struct Timed {
    exe: Box<dyn Executable>,
    step: Step,
    nodes: Vec<usize>,
    /// Of one copy.
    pub cost: Cost,
}

impl Timed {
    /// Loads `trial`, whose copies of the op are the nodes that `nodes` finds in the plan, and
    /// fills its cache with numbers.
    pub(crate) fn load(
        backend: &dyn Backend,
        trial: &Trial,
        extents: Extents,
        nodes: impl Fn(&Plan) -> Vec<usize>,
    ) -> Result<Self> {
        let plan = backend.plan(&trial.spec, &trial.source, &trial.limits).doing("plan")?;
        let nodes = nodes(&plan);
        let Some(&first) = nodes.first() else {
            return Err(Mismatch::contract("the op is expanded: it cannot be timed as one"));
        };
        let counts = match extents {
            Extents::Decode { seqs, context } => Counts::decode(seqs, context),
            Extents::Prompt(tokens) => Counts::prefill(tokens),
        };
        let cost = plan.spec.programs[0].costs(&counts, &plan.limits, &plan.weights)[first];
        let cost = Cost { bytes: cost.bytes(), flops: cost.flops };
        let mut exe = backend.load(plan, &trial.source).doing("load")?;
        let cache = exe.kv_cache();
        for group in 0..trial.spec.kv.len() {
            let geometry = cache.geometry(group);
            let mut draw = Draw::new(2);
            let numbers: Vec<f32> =
                (0..geometry.num_layers * geometry.layer_block_len()).map(|_| draw.unit()).collect();
            let block = geometry.encode_block(&numbers);
            (0..geometry.num_blocks as u32)
                .try_for_each(|id| cache.write_block(group, BlockId(id), &block))
                .doing("write_block")?;
        }
        exe.set_profiling(true).doing("set_profiling")?;
        let step = step(trial, extents);
        Ok(Self { exe, step, nodes, cost })
    }

    /// Number of copies.
    pub fn copies(&self) -> usize {
        self.nodes.len()
    }

    /// Runs one step: the seconds of each copy.
    ///
    /// Errors if the backend fails, or hands out no profile.
    pub fn run(&mut self) -> Result<Vec<f64>> {
        self.step.id = StepId(self.step.id.0 + 1);
        let ticket = self.exe.submit(&self.step).doing("submit")?;
        self.exe.collect(ticket).doing("collect")?;
        let profiles = self.exe.take_profiles();
        let profile = profiles.last().ok_or_else(|| Mismatch::contract("a profiled step left no profile"))?;
        let of_copy = |nodes: &Range<usize>| nodes.clone().any(|node| self.nodes.contains(&node));
        let ours = profile.ops.iter().filter(|op| op.nodes.as_ref().is_some_and(of_copy));
        Ok(ours.map(|op| op.seconds).collect())
    }
}

/// The step that is timed: sequences begin in it, with what is in the cache as their past.
fn step(trial: &Trial, extents: Extents) -> Step {
    let vocab = trial.spec.vocab_size;
    let (num_seqs, len, start) = match extents {
        Extents::Decode { seqs, context } if cached(trial) => (seqs, 1, context),
        Extents::Decode { seqs, .. } => (seqs, 1, 0),
        Extents::Prompt(tokens) => (1, tokens, 0),
    };
    let blocks = (start + len).div_ceil(trial.layout.block_len);
    let reset = |slot| SlotReset {
        slot: SlotId(slot),
        prompt: Arc::new([]),
        output: Arc::new([]),
        sampling: Arc::new(SamplingParams::default()),
    };
    let seq = |slot: u32| {
        let first = slot as usize * blocks;
        let table: Arc<[BlockId]> = (1 + first..=first + blocks).map(|id| BlockId(id as u32)).collect();
        let token = |at: usize| TokenId(Draw::at(1, [slot, at as u32]).below(vocab) as u32);
        SeqStep {
            slot: SlotId(slot),
            tokens: (0..len).map(|at| Source::Host(token(at))).collect(),
            positions: (start..start + len).map(|at| Source::Host(at as u32)).collect(),
            kv_start: Source::Host(start as u32),
            block_tables: if cached(trial) { [table].into() } else { InlineVec::new() },
            outputs: [OutputRow::new(len as u32 - 1)].into(),
        }
    };
    Step {
        resets: (0..num_seqs as u32).map(reset).collect(),
        seqs: (0..num_seqs as u32).map(seq).collect(),
        ..Step::default()
    }
}

fn cached(trial: &Trial) -> bool {
    !trial.spec.kv.is_empty()
}
