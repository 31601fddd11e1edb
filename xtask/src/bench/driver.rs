//! One sequence on the CPU backend, step by step, with nothing between the clock and the backend.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use nvllm_core::program::Counts;
use nvllm_core::weight::SafetensorsSource;
use nvllm_core::{
    Activations, Backend, BlockId, Code, DType, Executable, KvGeometry, Limits, ModelSpec, Numerics,
    OutputRow, SamplingParams, SeqStep, SlotId, SlotReset, Source, Step, StepId, TokenId, WeightFormat,
    WeightSource,
};

use crate::model;

/// Tokens of one sequence that fit.
pub(super) const CONTEXT: usize = 1024;
/// New tokens in one step.
pub(super) const STEP_TOKENS: usize = 512;

/// A model on disk.
pub(super) struct Checkpoint {
    /// As recorded from its config.json.
    pub spec: ModelSpec,
    /// Its mapped weights.
    pub source: SafetensorsSource,
}

impl Checkpoint {
    /// Opens the model directory.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let config = dir.join("config.json");
        let text = std::fs::read(&config).with_context(|| format!("cannot read {}", config.display()))?;
        let spec = model::record(&text).with_context(|| config.display().to_string())?;
        Ok(Self { spec, source: SafetensorsSource::open(dir)? })
    }

    /// Format of each weight, by id.
    pub(super) fn formats(&self) -> Result<Vec<WeightFormat>> {
        let format = |decl: &nvllm_core::WeightDecl| Ok(self.source.tensor(&decl.parts[0].source)?.format);
        self.spec.weights.iter().map(format).collect()
    }

    /// The dtype of the first weight.
    pub(super) fn dtype(&self) -> Result<DType> {
        match self.formats()?[0].code {
            Code::Dense(dtype) => Ok(dtype),
            _ => anyhow::bail!("the weights are quantised; dense ones can be measured"),
        }
    }
}

/// The contract for one sequence.
pub(super) fn limits(spec: &ModelSpec, activations: Activations) -> Limits {
    let block_len = 16;
    let mut limits = Limits {
        step_tokens: STEP_TOKENS,
        step_outputs: 1,
        seqs: 1,
        context: CONTEXT.min(spec.max_positions),
        block_len,
        kv_bytes: usize::MAX,
        kv_dtype: activations.dtype(),
        activations,
        numerics: Numerics::Invariant,
        max_in_flight: 1,
    };
    let bytes = |kv| KvGeometry::new(kv, &limits).map_or(0, |geometry| geometry.block_bytes());
    limits.kv_bytes = spec.kv.iter().map(bytes).max().unwrap_or(0) * (CONTEXT / block_len + 1);
    limits
}

/// A loaded model with its sequence.
pub(super) struct Driver {
    exe: Box<dyn Executable>,
    limits: Limits,
    table: Arc<[BlockId]>,
    num_steps: u64,
}

impl Driver {
    /// Loads `checkpoint` on `backend`.
    pub(super) fn load(
        backend: &dyn Backend,
        checkpoint: &Checkpoint,
        activations: Activations,
    ) -> Result<Self> {
        let limits = limits(&checkpoint.spec, activations);
        let exe = backend.load(&checkpoint.spec, &checkpoint.source, &limits)?;
        let num_blocks = limits.context.div_ceil(limits.block_len) as u32;
        Ok(Self { exe, limits, table: (1..=num_blocks).map(BlockId).collect(), num_steps: 0 })
    }

    /// The contract it was loaded for.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Starts anew with `prompt` in one step: the seconds it took and the first token.
    pub(super) fn prefill(&mut self, prompt: &[TokenId]) -> Result<(f64, TokenId)> {
        let (seconds, token, _) = self.run_prompt(prompt, false)?;
        Ok((seconds, token))
    }

    /// The logits after `prompt`.
    pub(super) fn logits(&mut self, prompt: &[TokenId]) -> Result<Vec<f32>> {
        Ok(self.run_prompt(prompt, true)?.2)
    }

    /// One more token: the seconds it took, and the token.
    pub(super) fn decode(&mut self) -> Result<(f64, TokenId)> {
        let seq = SeqStep {
            slot: SlotId(0),
            tokens: vec![Source::Slot],
            positions: vec![Source::Slot],
            kv_start: Source::Slot,
            block_tables: vec![Arc::clone(&self.table)],
            outputs: vec![OutputRow::sample(0)],
        };
        let (seconds, token, _) = self.step(seq, Vec::new())?;
        Ok((seconds, token))
    }

    fn run_prompt(&mut self, prompt: &[TokenId], logits: bool) -> Result<(f64, TokenId, Vec<f32>)> {
        let reset = SlotReset {
            slot: SlotId(0),
            prompt: prompt.into(),
            output: Arc::from([]),
            sampling: Arc::new(SamplingParams::default()),
        };
        let seq = SeqStep {
            slot: SlotId(0),
            tokens: prompt.iter().map(|&token| Source::Host(token)).collect(),
            positions: (0..prompt.len() as u32).map(Source::Host).collect(),
            kv_start: Source::Host(0),
            block_tables: vec![Arc::clone(&self.table)],
            outputs: vec![OutputRow { logits, ..OutputRow::sample(prompt.len() as u32 - 1) }],
        };
        self.step(seq, vec![reset])
    }

    fn step(&mut self, seq: SeqStep, resets: Vec<SlotReset>) -> Result<(f64, TokenId, Vec<f32>)> {
        let step =
            Step { id: StepId(self.num_steps), entry: 0, resets, seqs: vec![seq], awaits_masks: false };
        self.num_steps += 1;
        let start = Instant::now();
        let ticket = self.exe.submit(&step)?;
        let output = self.exe.collect(ticket)?;
        let seconds = start.elapsed().as_secs_f64();
        let token = output.tokens.first().copied().flatten().context("the step sampled nothing")?;
        let logits = match output.rows.into_iter().next().flatten() {
            Some(row) => row.to_host()?.to_f32(),
            None => Vec::new(),
        };
        Ok((seconds, token, logits))
    }
}

/// Weight and KV bytes, and FLOPs, of a step of `counts`.
pub(super) fn cost(checkpoint: &Checkpoint, limits: &Limits, counts: &Counts) -> Result<(f64, f64)> {
    let cost = checkpoint.spec.programs[0].cost(counts, limits, &checkpoint.formats()?);
    Ok((cost.weight_bytes + cost.kv_bytes, cost.flops))
}

/// Token ids that look like none in particular: the same on every machine, within any vocabulary.
pub(super) fn prompt(len: usize, vocab_size: usize) -> Vec<TokenId> {
    (0..len)
        .map(|i| {
            TokenId(
                (nvllm_core::sampling::philox4x32(0, [i as u32, 0, 0, 0])[0] as usize % vocab_size) as u32,
            )
        })
        .collect()
}
