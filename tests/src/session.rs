//! Sequences on one backend, fed by hand.

use std::sync::Arc;

use nvllm_core::{
    Activations, Backend, BlockId, EntryId, Executable, InlineVec, Limits, ModelSpec, OutputRow, PagedKv,
    SamplingParams, SeqStep, SlotId, SlotReset, Source, Step, StepId, TokenId, WeightSource,
};

/// Where a sequence's KV positions lie, and how its prompt is cut.
#[derive(Clone, Debug)]
pub struct Layout {
    /// KV positions in a block.
    pub block_len: usize,
    /// Order of physical blocks: every `stride`-th, counted around a prime number of them.
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

/// Sequences at once.
const SLOTS: usize = 4;

/// Limits that hold any fixture under `layout`.
pub fn limits(spec: &ModelSpec, activations: Activations, layout: &Layout) -> Limits {
    let columns = |kv: &PagedKv| 2 * kv.num_layers * kv.num_heads * kv.head_dim;
    let token = spec.kv.iter().map(columns).sum::<usize>() * activations.dtype().size();
    Limits {
        step_tokens: 512,
        step_outputs: 512,
        block_len: layout.block_len,
        kv_bytes: (BLOCKS + 1) * layout.block_len * token,
        ..Limits::new(activations, SLOTS, BLOCKS / SLOTS * layout.block_len)
    }
}

/// A loaded model with a sequence in each of its slots.
pub struct Session {
    /// The loaded model.
    pub exe: Box<dyn Executable>,
    layout: Layout,
    vocab: usize,
    num_groups: usize,
    /// Tokens in the cache, by slot.
    lens: [usize; SLOTS],
    next_step: u64,
}

/// Some new tokens of the sequence in a slot.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The slot.
    pub slot: usize,
    /// New tokens.
    pub tokens: &'a [TokenId],
    /// Their positions.
    pub positions: &'a [u32],
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
        let mut exe = backend
            .plan_and_load(spec, source, &limits)
            .unwrap_or_else(|e| panic!("{}: {e}", backend.info().name));
        while exe.prepare(true).expect("the device works") {}
        let (vocab, num_groups) = (spec.vocab_size, spec.kv.len());
        Self { exe, layout, vocab, num_groups, lens: [0; SLOTS], next_step: 0 }
    }

    /// Forgets the sequence in slot 0.
    pub fn clear(&mut self) {
        self.lens[0] = 0;
    }

    /// Runs `tokens` in slot 0 after what is cached and returns all their logits `[T, vocab]`.
    pub fn logits(&mut self, tokens: &[TokenId], positions: &[u32]) -> Vec<f32> {
        let chunk = self.layout.chunk;
        let mut logits = Vec::with_capacity(tokens.len() * self.vocab);
        for (tokens, positions) in tokens.chunks(chunk).zip(positions.chunks(chunk)) {
            logits.extend(self.step(&[Part { slot: 0, tokens, positions }]).remove(0));
        }
        logits
    }

    /// Greedy continuation in slot 0: runs the prompt, then feeds back `num` likeliest tokens,
    /// positions counting on.
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

    /// One step of several sequences, in that order; the logits of each, `[T, vocab]`.
    pub fn step(&mut self, parts: &[Part<'_>]) -> Vec<Vec<f32>> {
        let new = parts.iter().filter(|part| self.lens[part.slot] == 0);
        let resets = new.map(|part| SlotReset {
            slot: SlotId(part.slot as u32),
            prompt: Arc::from([]),
            output: Arc::from([]),
            sampling: Arc::new(SamplingParams::default()),
        });
        let step = Step {
            id: StepId(self.next_step),
            entry: EntryId::GENERATE,
            resets: resets.collect(),
            seqs: parts.iter().map(|part| self.seq_step(part)).collect(),
            ..Step::default()
        };
        self.next_step += 1;
        for part in parts {
            self.lens[part.slot] += part.tokens.len();
        }
        let ticket = self.exe.submit(&step).expect("the step fits");
        let output = self.exe.collect(ticket).expect("the step runs");
        let mut rows =
            output.rows.into_iter().map(|row| row.values.expect("logits").to_host().expect("host").to_f32());
        parts.iter().map(|part| rows.by_ref().take(part.tokens.len()).flatten().collect()).collect()
    }

    fn seq_step(&self, part: &Part<'_>) -> SeqStep {
        let start = self.lens[part.slot];
        let num_blocks = (start + part.tokens.len()).div_ceil(self.layout.block_len);
        let block = |i: usize| BlockId((1 + ((i * SLOTS + part.slot) * self.layout.stride) % BLOCKS) as u32);
        SeqStep {
            slot: SlotId(part.slot as u32),
            tokens: part.tokens.iter().map(|&t| Source::Host(t)).collect(),
            positions: part.positions.iter().map(|&p| Source::Host(p)).collect(),
            kv_start: Source::Host(start as u32),
            block_tables: InlineVec::from_elem((0..num_blocks).map(block).collect(), self.num_groups),
            outputs: (0..part.tokens.len() as u32).map(OutputRow::values).collect(),
        }
    }
}

/// The first largest.
pub fn argmax(row: &[f32]) -> TokenId {
    let best = row
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best });
    TokenId(best.0 as u32)
}
