//! One sequence on one backend, fed by hand.

use std::sync::Arc;

use nvllm_core::{
    Activations, Backend, BlockId, Executable, Limits, ModelSpec, Numerics, OutputRow, SamplingParams,
    SeqStep, SlotId, SlotReset, Source, Step, StepId, TokenId, WeightSource,
};

/// Where a sequence's KV positions lie, and how its prompt is cut.
#[derive(Clone, Debug)]
pub struct Layout {
    /// KV positions in a block.
    pub block_len: usize,
    /// Order of physical blocks: logical block `i` lies in `1 + (i * stride) % prime`.
    pub stride: usize,
    /// New tokens a step, at most.
    pub chunk: usize,
}

impl Default for Layout {
    fn default() -> Self {
        Self { block_len: 16, stride: 1, chunk: 512 }
    }
}

/// Physical blocks beside the null block: a prime, so that every stride visits all.
const BLOCKS: usize = 1009;

/// Limits that hold any fixture under `layout`.
pub fn limits(spec: &ModelSpec, activations: Activations, layout: &Layout) -> Limits {
    let kv = &spec.kv[0];
    let token = 2 * kv.num_layers * kv.num_heads * kv.head_dim * activations.dtype().size();
    Limits {
        step_tokens: 512,
        step_outputs: 512,
        seqs: 4,
        context: BLOCKS * layout.block_len,
        block_len: layout.block_len,
        kv_bytes: (BLOCKS + 1) * layout.block_len * token,
        kv_dtype: activations.dtype(),
        activations,
        numerics: Numerics::Invariant,
        max_in_flight: 1,
    }
}

/// A loaded model with one sequence in slot 0.
pub struct Session {
    /// The loaded model.
    pub exe: Box<dyn Executable>,
    layout: Layout,
    vocab: usize,
    len: usize,
    next_step: u64,
}

impl Session {
    /// Loads `spec` on `backend`.
    pub fn new(
        backend: &dyn Backend,
        spec: &ModelSpec,
        source: &dyn WeightSource,
        activations: Activations,
        layout: Layout,
    ) -> Self {
        let limits = limits(spec, activations, &layout);
        let exe =
            backend.load(spec, source, &limits).unwrap_or_else(|e| panic!("{}: {e}", backend.info().name));
        Self { exe, layout, vocab: spec.vocab_size, len: 0, next_step: 0 }
    }

    /// Forgets the sequence.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Runs `tokens` after what is cached and returns all their logits `[T, vocab]`.
    pub fn logits(&mut self, tokens: &[TokenId], positions: &[u32]) -> Vec<f32> {
        let chunk = self.layout.chunk;
        let mut logits = Vec::with_capacity(tokens.len() * self.vocab);
        for (tokens, positions) in tokens.chunks(chunk).zip(positions.chunks(chunk)) {
            for row in self.step(tokens, positions) {
                logits.extend(row);
            }
        }
        logits
    }

    /// Greedy continuation: runs the prompt, then feeds back `num` likeliest tokens, positions counting on.
    pub fn greedy(&mut self, prompt: &[TokenId], positions: &[u32], num: usize) -> Vec<TokenId> {
        let mut logits = self.logits(prompt, positions);
        let mut position = positions.last().copied().unwrap_or_default();
        let mut out = Vec::with_capacity(num);
        while out.len() < num {
            let token = argmax(&logits[logits.len() - self.vocab..]);
            out.push(token);
            position += 1;
            if out.len() < num {
                logits = self.logits(&[token], &[position]);
            }
        }
        out
    }

    fn step(&mut self, tokens: &[TokenId], positions: &[u32]) -> Vec<Vec<f32>> {
        let reset = SlotReset {
            slot: SlotId(0),
            prompt: Arc::from([]),
            output: Arc::from([]),
            sampling: Arc::new(SamplingParams::default()),
        };
        let end = self.len + tokens.len();
        let table: Arc<[BlockId]> = (0..end.div_ceil(self.layout.block_len))
            .map(|i| BlockId((1 + (i * self.layout.stride) % BLOCKS) as u32))
            .collect();
        let step = Step {
            id: StepId(self.next_step),
            entry: 0,
            resets: if self.len == 0 { vec![reset] } else { Vec::new() },
            seqs: vec![SeqStep {
                slot: SlotId(0),
                tokens: tokens.iter().map(|&t| Source::Host(t)).collect(),
                positions: positions.iter().map(|&p| Source::Host(p)).collect(),
                kv_start: Source::Host(self.len as u32),
                block_tables: vec![table],
                outputs: (0..tokens.len() as u32).map(OutputRow::logits).collect(),
            }],
            awaits_masks: false,
        };
        self.next_step += 1;
        self.len = end;
        let ticket = self.exe.submit(&step).expect("the step fits");
        let output = self.exe.collect(ticket).expect("the step runs");
        output.rows.into_iter().map(|row| row.expect("logits").to_host().expect("host").to_f32()).collect()
    }
}

/// The first largest.
fn argmax(row: &[f32]) -> TokenId {
    let best = row
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best });
    TokenId(best.0 as u32)
}
