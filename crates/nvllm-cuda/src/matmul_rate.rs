//! How fast the device multiplies matrices with the crate's own kernels: the limit that a prefill
//! is held against.

use std::sync::Arc;

use nvllm_core::weight::{AxisRole, SyntheticSource};
use nvllm_core::{
    Activations, Backend, CoreError, DType, Executable, InlineVec, Limits, ModelSpec, Numerics, Result,
    SamplingParams, SeqStep, SlotId, SlotReset, Source, SpecBuilder, Step, TokenId,
};

/// Columns of x and of y: many times what a tile covers.
const WIDTH: usize = 4096;
/// Rows of x where 16-bit operands go to tensor cores, and elsewhere.
const ROWS: (usize, usize) = (8192, 256);
/// Rows of the table that x is looked up in.
const TABLE_ROWS: usize = 64;
/// Products of a measurement, of which the fastest counts.
const PRODUCTS: usize = 5;

/// A model of one linear layer, `[m, 4096] x [4096, 4096]^T`, loaded as any other.
pub(crate) struct MatmulRate {
    /// Dtype of the weights, and what values are stored as.
    pub of: (DType, Activations),
    exe: Box<dyn Executable>,
    step: Step,
}

impl MatmulRate {
    /// Loads it.
    ///
    /// # Errors
    /// As loading a model.
    pub(crate) fn new(backend: &dyn Backend, weights: DType, activations: Activations) -> Result<Self> {
        let spec = spec()?;
        let fast = (weights, activations) == (DType::Bf16, Activations::Bf16);
        let rows = if fast { ROWS.0 } else { ROWS.1 };
        let limits = Limits {
            step_tokens: rows,
            step_outputs: 1,
            seqs: 1,
            context: rows,
            block_len: 16,
            kv_bytes: 0,
            kv_format: activations.kv_format(),
            activations,
            numerics: Numerics::Invariant,
            max_in_flight: 1,
        };
        let source = SyntheticSource::new(&spec.weights, weights, 0);
        let mut exe = backend.plan_and_load(&spec, &source, &limits)?;
        exe.set_profiling(true)?;
        Ok(Self { of: (weights, activations), exe, step: step(rows) })
    }

    /// Multiplications and additions a second, now.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn measure(&mut self) -> Result<f64> {
        for _ in 0..PRODUCTS {
            let ticket = self.exe.submit(&self.step)?;
            self.exe.collect(ticket)?;
        }
        let profiles = self.exe.take_profiles();
        let products = profiles.iter().filter_map(|profile| profile.ops.last());
        let best = products.map(|op| op.seconds).fold(f64::INFINITY, f64::min);
        if !best.is_finite() {
            let problem = "no product was timed".to_owned();
            return Err(CoreError::Device { backend: "cuda".into(), problem });
        }
        Ok((2 * self.step.num_tokens() * WIDTH * WIDTH) as f64 / best)
    }
}

fn spec() -> Result<ModelSpec> {
    let mut builder = SpecBuilder::new();
    let mut matrix = |name: &str, rows| {
        let part = (name.to_owned(), rows, AxisRole::Replicated);
        builder.matrix(name, WIDTH, AxisRole::Replicated, [part])
    };
    let (table, weight) = (matrix("table", TABLE_ROWS), matrix("weight", WIDTH));
    let mut program = builder.program("product");
    let x = program.embed(table);
    program.linear(x, weight);
    let programs = vec![program.finish()?];
    Ok(builder.finish("a matrix product", programs, TABLE_ROWS, ROWS.0))
}

/// One sequence of `rows` tokens, from nothing.
fn step(rows: usize) -> Step {
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

#[cfg(test)]
mod tests {
    use nvllm_core::{KvFormat, Reference};

    use super::*;

    #[test]
    fn the_layer_is_the_last_op_of_a_step_that_runs() {
        let spec = spec().unwrap();
        assert_eq!(spec.programs[0].nodes.last().map(|node| node.op.stem()), Some("linear"));
        let limits = Limits {
            step_tokens: 2,
            step_outputs: 1,
            seqs: 1,
            context: 2,
            block_len: 16,
            kv_bytes: 0,
            kv_format: KvFormat::Bf16,
            activations: Activations::Bf16,
            numerics: Numerics::Invariant,
            max_in_flight: 1,
        };
        let source = SyntheticSource::new(&spec.weights, DType::Bf16, 0);
        let mut exe = Reference::default().plan_and_load(&spec, &source, &limits).unwrap();
        let ticket = exe.submit(&step(2)).unwrap();
        exe.collect(ticket).unwrap();
    }
}
