//! Several sequences of equal length on one backend, with as many steps in flight as the limits allow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nvllm_core::{
    BlockId, Executable, KvGeometry, Limits, ModelSpec, OutputRow, SamplingParams, SeqStep, SlotId,
    SlotReset, Source, Step, StepId, Ticket,
};

use super::driver;

/// A loaded model and its sequences, one in each slot.
pub(super) struct Sequences<E> {
    pub exe: E,
    pub limits: Limits,
    tables: Vec<Arc<[BlockId]>>,
    vocab_size: usize,
    num_steps: u64,
}

impl<E: Executable> Sequences<E> {
    /// `limits` with a KV cache that holds every slot's full context.
    pub(super) fn sized(mut limits: Limits, spec: &ModelSpec) -> Limits {
        let bytes = |kv| KvGeometry::new(kv, &limits).map_or(0, |geometry| geometry.block_bytes());
        let block = spec.kv.iter().map(bytes).max().unwrap_or(0);
        limits.kv_bytes = block * (limits.seqs * limits.context.div_ceil(limits.block_len) + 1);
        limits
    }

    pub(super) fn new(exe: E, limits: Limits, vocab_size: usize) -> Self {
        let each = limits.context.div_ceil(limits.block_len) as u32;
        let table = |slot: u32| (1 + slot * each..=(slot + 1) * each).map(BlockId).collect();
        let tables = (0..limits.seqs as u32).map(table).collect();
        Self { exe, limits, tables, vocab_size, num_steps: 0 }
    }

    /// Starts every sequence anew with a prompt of its own, all in one step, and waits for the first tokens.
    pub(super) fn prompts(&mut self, len: usize) -> Result<()> {
        let all = driver::prompt(len * self.tables.len(), self.vocab_size);
        let reset = |slot: u32| SlotReset {
            slot: SlotId(slot),
            prompt: all[slot as usize * len..][..len].into(),
            output: Arc::from([]),
            sampling: Arc::new(SamplingParams::default()),
        };
        let resets: Vec<_> = (0..self.tables.len() as u32).map(reset).collect();
        let seqs = resets
            .iter()
            .zip(&self.tables)
            .map(|(reset, table)| SeqStep {
                slot: reset.slot,
                tokens: reset.prompt.iter().map(|&token| Source::Host(token)).collect(),
                positions: (0..len as u32).map(Source::Host).collect(),
                kv_start: Source::Host(0),
                block_tables: vec![Arc::clone(table)],
                outputs: vec![OutputRow::sample(len as u32 - 1)],
            })
            .collect();
        let ticket = self.submit(seqs, resets)?;
        self.collect(ticket)
    }

    /// `num` more tokens of every sequence: seconds from each step's result to the next.
    pub(super) fn decode(&mut self, num: usize) -> Result<Vec<f64>> {
        let (mut flying, mut seconds) = (VecDeque::new(), Vec::new());
        let mut last = Instant::now();
        for _ in 0..num {
            if flying.len() == self.limits.max_in_flight {
                seconds.push(self.land(&mut flying, &mut last)?);
            }
            let seqs = self.tables.iter().zip(0..).map(|(table, slot)| SeqStep {
                slot: SlotId(slot),
                tokens: vec![Source::Slot],
                positions: vec![Source::Slot],
                kv_start: Source::Slot,
                block_tables: vec![Arc::clone(table)],
                outputs: vec![OutputRow::sample(0)],
            });
            let seqs = seqs.collect();
            flying.push_back(self.submit(seqs, Vec::new())?);
        }
        while !flying.is_empty() {
            seconds.push(self.land(&mut flying, &mut last)?);
        }
        Ok(seconds)
    }

    fn land(&mut self, flying: &mut VecDeque<Ticket>, last: &mut Instant) -> Result<f64> {
        let ticket = flying.pop_front().context("a step is in flight")?;
        self.collect(ticket)?;
        let now = Instant::now();
        let seconds = now.duration_since(*last).as_secs_f64();
        *last = now;
        Ok(seconds)
    }

    fn submit(&mut self, seqs: Vec<SeqStep>, resets: Vec<SlotReset>) -> Result<Ticket> {
        let step = Step { id: StepId(self.num_steps), entry: 0, resets, seqs, awaits_masks: false };
        self.num_steps += 1;
        Ok(self.exe.submit(&step)?)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<()> {
        let output = self.exe.collect(ticket)?;
        let sampled = output.tokens.iter().flatten().count();
        ensure!(sampled == self.tables.len(), "{sampled} tokens for {} sequences", self.tables.len());
        Ok(())
    }
}
