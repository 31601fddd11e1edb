//! Sequences on one backend, step by step, with nothing between the clock and the backend.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use nvllm_core::program::Counts;
use nvllm_core::sampling::philox4x32;
use nvllm_core::{
    Backend, BlockId, CoreError, DType, EntryId, ExactHeadCounts, Executable, HostTensor, InlineVec,
    KvGeometry, Limits, MemoryReport, OutputRow, Program, SamplingParams, SeqStep, SlotId, SlotReset, Source,
    Step, StepId, StepProfile, Ticket, TokenId, WeightInfo,
};
use nvllm_engine::Model;

use crate::record::Cost;
use crate::{BenchError, Result};

/// A loaded model with a sequence in each slot, every one with as many blocks of its own as the
/// limits' KV bytes give each.
pub(crate) struct Stepper {
    exe: Box<dyn Executable>,
    limits: Limits,
    num_groups: usize,
    /// Blocks of each sequence, in every group.
    seq_blocks: usize,
    vocab_size: usize,
    num_steps: u64,
    /// Times of every step, while it is profiled.
    spans: Option<Vec<StepSpan>>,
}

/// A step as the host saw it.
pub(crate) struct StepSpan {
    pub submit: Instant,
    pub submitted: Instant,
    pub collected: Instant,
}

/// A submitted step.
struct Flight {
    ticket: Ticket,
    submit: Instant,
    submitted: Instant,
}

impl Stepper {
    /// Loads `model`. The limits' KV bytes hold `seqs` sequences of what is asked of them, see
    /// [`kv_bytes`].
    pub(crate) fn load(backend: &dyn Backend, model: &Model, limits: &Limits) -> Result<Self> {
        let mut exe = backend.plan_and_load(&model.spec, &model.weights(backend, limits)?, limits)?;
        while exe.prepare(true)? {}
        let (num_groups, vocab_size) = (model.spec.kv.len(), model.spec.vocab_size);
        let num_blocks = if num_groups > 0 { exe.kv_cache().geometry(0).num_blocks } else { 1 };
        let (limits, seq_blocks) = (limits.clone(), (num_blocks - 1) / limits.seqs);
        Ok(Self { exe, limits, num_groups, seq_blocks, vocab_size, num_steps: 0, spans: None })
    }

    /// Runs `work` with every op timed: what the host and what the device spent on each of its
    /// steps.
    pub(crate) fn profiled(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Vec<(StepSpan, StepProfile)>> {
        self.exe.set_profiling(true)?;
        self.spans = Some(Vec::new());
        let result = work(self);
        self.exe.set_profiling(false)?;
        let spans = self.spans.take().unwrap_or_default();
        let profiles = self.exe.take_profiles();
        result.map(|()| spans.into_iter().zip(profiles).collect())
    }

    /// The program that generates, as it runs.
    pub(crate) fn program(&self) -> Result<&Program> {
        let missing = || CoreError::BadProgram { program: "generate".into(), problem: "is missing".into() };
        Ok(self.exe.program(EntryId::GENERATE).ok_or_else(missing)?)
    }

    /// Bytes of inputs that the last step copied to the device.
    pub(crate) fn input_bytes(&self) -> usize {
        self.exe.input_bytes()
    }

    /// What came of an exact head since loading.
    pub(crate) fn exact_head(&self) -> ExactHeadCounts {
        self.exe.exact_head()
    }

    /// What is allocated.
    pub(crate) fn memory(&self) -> MemoryReport {
        self.exe.memory()
    }

    /// Writes drawn numbers to every block, as a computed prefix would have left them: times do not
    /// depend on the numbers, but pages that were never written are not in memory.
    pub(crate) fn fill_cache(&mut self) -> Result<()> {
        for group in 0..self.num_groups {
            let geometry = self.exe.kv_cache().geometry(group);
            let data = drawn_block(&geometry);
            for block in 0..geometry.num_blocks {
                self.exe.kv_cache().write_block(group, BlockId(block as u32), &data)?;
            }
        }
        Ok(())
    }

    /// Puts a sequence of `context` cached tokens into each of the first `batch` slots. The next
    /// [`decode`](Self::decode) goes on from there.
    pub(crate) fn place(&mut self, batch: usize, context: usize) -> Result<f64> {
        self.place_with(batch, context, &SamplingParams::default(), 0)
    }

    /// As [`place`](Self::place), with sampling parameters for every sequence, each a choice of its
    /// own, and so many tokens of a prompt that penalties count.
    pub(crate) fn place_with(
        &mut self,
        batch: usize,
        context: usize,
        sampling: &SamplingParams,
        seen: usize,
    ) -> Result<f64> {
        let seqs = (0..batch).map(|slot| {
            let token = TokenId((slot % self.vocab_size) as u32);
            self.seq(
                slot,
                [Source::Host(token)].into(),
                Source::Host(context as u32),
                [OutputRow::sample(0)].into(),
            )
        });
        let seqs = seqs.collect();
        let resets = (0..batch).map(|slot| {
            let sampling = SamplingParams { choice: slot as u32, ..sampling.clone() };
            // A stride that shares no factor with the size of a vocabulary: all over it.
            let token = |i| TokenId(((slot + i * 7919) % self.vocab_size) as u32);
            let prompt: Vec<_> = (0..seen).map(token).collect();
            SlotReset { sampling: Arc::new(sampling), ..reset(slot, &prompt) }
        });
        let resets = resets.collect();
        self.step(seqs, resets)
    }

    /// One more token for each of the first `batch` sequences: the seconds of the step.
    pub(crate) fn decode(&mut self, batch: usize) -> Result<f64> {
        let seqs = self.decoding(batch);
        self.step(seqs, Vec::new())
    }

    /// `num` tokens for each of the first `batch` sequences, the next step submitted before the
    /// last one's tokens are collected, as in serving on a device: the seconds from one step's
    /// tokens to the next's. One more step is run than is timed.
    pub(crate) fn decode_run(&mut self, batch: usize, num: usize) -> Result<Vec<f64>> {
        let mut ahead = self.submit_decode(batch)?;
        let mut seconds = Vec::with_capacity(num);
        let mut last = Instant::now();
        for _ in 0..num {
            let next = self.submit_decode(batch)?;
            self.exe.collect(std::mem::replace(&mut ahead, next))?;
            let now = Instant::now();
            seconds.push(now.duration_since(last).as_secs_f64());
            last = now;
        }
        self.exe.collect(ahead)?;
        Ok(seconds)
    }

    fn submit_decode(&mut self, batch: usize) -> Result<Ticket> {
        let seqs = self.decoding(batch);
        let step = self.next_step(seqs, Vec::new());
        Ok(self.exe.submit(&step)?)
    }

    fn decoding(&self, batch: usize) -> Vec<SeqStep> {
        let outputs = || [OutputRow::sample(0)].into();
        (0..batch).map(|slot| self.seq(slot, [Source::Slot].into(), Source::Slot, outputs())).collect()
    }

    fn next_step(&mut self, seqs: Vec<SeqStep>, resets: Vec<SlotReset>) -> Step {
        self.num_steps += 1;
        let (id, entry) = (StepId(self.num_steps - 1), EntryId::GENERATE);
        Step { id, entry, resets, seqs, ..Step::default() }
    }

    /// Sequences from nothing in the first slots, in as few steps as the limits allow, the first
    /// token of each sampled: the seconds from the first submission to the last token.
    pub(crate) fn prefill(&mut self, prompts: &[Vec<TokenId>]) -> Result<f64> {
        Ok(self.run_prompts(prompts, false)?.0)
    }

    /// The logits after `ids`.
    pub(crate) fn logits(&mut self, ids: &[TokenId]) -> Result<Vec<f32>> {
        Ok(self.run_prompts(&[ids.to_vec()], true)?.1)
    }

    fn run_prompts(&mut self, prompts: &[Vec<TokenId>], logits: bool) -> Result<(f64, Vec<f32>)> {
        let lens: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let (mut flights, mut row) = (VecDeque::new(), Vec::new());
        let begin = Instant::now();
        for parts in cut(&lens, self.limits.step_tokens) {
            if flights.len() == self.limits.max_in_flight {
                row = self.finish(flights.pop_front())?;
            }
            let seqs = parts.iter().map(|(slot, range)| {
                let last = OutputRow { values: logits, ..OutputRow::sample(range.len() as u32 - 1) };
                let outputs = if range.end == lens[*slot] { [last].into() } else { InlineVec::new() };
                let tokens = prompts[*slot][range.clone()].iter().map(|&token| Source::Host(token)).collect();
                self.seq(*slot, tokens, Source::Host(range.start as u32), outputs)
            });
            let seqs = seqs.collect();
            let begins = parts.iter().filter(|(_, range)| range.start == 0);
            let resets = begins.map(|(slot, _)| reset(*slot, &prompts[*slot])).collect();
            flights.push_back(self.start(seqs, resets)?);
        }
        while !flights.is_empty() {
            row = self.finish(flights.pop_front())?;
        }
        Ok((begin.elapsed().as_secs_f64(), row))
    }

    fn seq(
        &self,
        slot: usize,
        tokens: InlineVec<Source<TokenId>>,
        kv_start: Source<u32>,
        outputs: InlineVec<OutputRow>,
    ) -> SeqStep {
        let per_seq = self.seq_blocks;
        let table: Arc<[BlockId]> = (0..per_seq).map(|i| BlockId((1 + slot * per_seq + i) as u32)).collect();
        let positions = match kv_start {
            Source::Host(start) => (0..tokens.len() as u32).map(|i| Source::Host(start + i)).collect(),
            Source::Slot => InlineVec::from_elem(Source::Slot, tokens.len()),
        };
        SeqStep {
            slot: SlotId(slot as u32),
            tokens,
            positions,
            kv_start,
            block_tables: InlineVec::from_elem(table, self.num_groups),
            outputs,
        }
    }

    /// One step, waited for: its seconds.
    fn step(&mut self, seqs: Vec<SeqStep>, resets: Vec<SlotReset>) -> Result<f64> {
        let begin = Instant::now();
        let flight = self.start(seqs, resets)?;
        self.finish(Some(flight))?;
        Ok(begin.elapsed().as_secs_f64())
    }

    fn start(&mut self, seqs: Vec<SeqStep>, resets: Vec<SlotReset>) -> Result<Flight> {
        let step = self.next_step(seqs, resets);
        let submit = Instant::now();
        let ticket = self.exe.submit(&step)?;
        Ok(Flight { ticket, submit, submitted: Instant::now() })
    }

    /// Waits for a step: its first row of logits, if one was wanted.
    fn finish(&mut self, flight: Option<Flight>) -> Result<Vec<f32>> {
        let Some(Flight { ticket, submit, submitted }) = flight else { return Ok(Vec::new()) };
        let output = self.exe.collect(ticket)?;
        if let Some(spans) = &mut self.spans {
            spans.push(StepSpan { submit, submitted, collected: Instant::now() });
        }
        match output.rows.into_iter().next().and_then(|row| row.values) {
            Some(row) => Ok(row.to_host()?.to_f32()),
            None => Ok(Vec::new()),
        }
    }
}

fn reset(slot: usize, prompt: &[TokenId]) -> SlotReset {
    SlotReset {
        slot: SlotId(slot as u32),
        prompt: prompt.into(),
        output: Arc::from([]),
        sampling: Arc::new(SamplingParams { temperature: 0.0, ..SamplingParams::default() }),
    }
}

/// A block of small numbers of both signs.
fn drawn_block(geometry: &KvGeometry) -> HostTensor {
    let value = |i| {
        let [word, ..] = philox4x32(0, [i as u32, 1, 0, 0]);
        (word as f32 / u32::MAX as f32 - 0.5) * 0.25
    };
    let values: Vec<_> = (0..geometry.num_layers * geometry.layer_block_len()).map(value).collect();
    geometry.encode_block(&values)
}

/// KV bytes of `seqs` sequences of `context` tokens and the null block, under the other `limits`.
pub(crate) fn kv_bytes(model: &Model, limits: &Limits, seqs: usize, context: usize) -> Result<usize> {
    let block = KvGeometry::bytes_of_block(&model.spec.kv, limits)?;
    Ok(block.saturating_mul(1 + seqs * context.div_ceil(limits.block_len)))
}

/// What is known of each weight as it is loaded, by id.
pub(crate) fn weights(model: &Model, backend: &dyn Backend, limits: &Limits) -> Result<Vec<WeightInfo>> {
    let source = model.weights(backend, limits)?;
    let of = |decl| WeightInfo::of(decl, &source);
    model.spec.weights.iter().map(of).collect::<nvllm_core::Result<_>>().map_err(BenchError::from)
}

/// What the steps of `counts` move and compute at least, over all of them.
pub(crate) fn cost(model: &Model, limits: &Limits, weights: &[WeightInfo], steps: &[Counts]) -> Cost {
    let mut total = Cost { bytes: 0.0, flops: 0.0 };
    for counts in steps {
        let cost = model.spec.programs[0].cost(counts, limits, weights);
        total.bytes += cost.weight_bytes + cost.kv_bytes;
        total.flops += cost.flops;
    }
    total
}

/// Steps of at most `step_tokens` tokens that run prompts of these lengths one after another: in
/// each, some prompts with the range of their tokens.
fn cut(lens: &[usize], step_tokens: usize) -> Vec<Vec<(usize, Range<usize>)>> {
    let (mut steps, mut left) = (Vec::new(), 0);
    for (at, &len) in lens.iter().enumerate() {
        let mut start = 0;
        while start < len {
            if left == 0 {
                steps.push(Vec::new());
                left = step_tokens.max(1);
            }
            let num = left.min(len - start);
            steps.last_mut().into_iter().for_each(|step| step.push((at, start..start + num)));
            start += num;
            left -= num;
        }
    }
    steps
}

/// The extents of the steps that run prompts of these lengths, the last row of each wanted.
pub(crate) fn prefill_counts(lens: &[usize], step_tokens: usize) -> Vec<Counts> {
    let step = |parts: Vec<(usize, Range<usize>)>| {
        let mut counts = Counts { seqs: parts.len(), ..Counts::default() };
        for (at, range) in parts {
            counts.tokens += range.len();
            counts.outputs += usize::from(range.end == lens[at]);
            counts.kv_positions += range.end;
            counts.kv_pairs += range.len() * range.start + range.len() * (range.len() + 1) / 2;
        }
        counts
    };
    cut(lens, step_tokens).into_iter().map(step).collect()
}

/// The dtype that `model`'s first tensor is stored in (of a coded one that of its activations), and
/// the names of all its formats, those of most bytes first.
pub(crate) fn weight_dtype(model: &Model) -> Result<(DType, String)> {
    let first = model.spec.weights.first().map(|decl| WeightInfo::of(decl, &*model.source)).transpose()?;
    let format = first.and_then(|weight| Some(weight.parts.first()?.format));
    let names: Vec<_> = model.weight_formats()?.iter().map(ToString::to_string).collect();
    Ok((format.and_then(|format| format.plain()).unwrap_or(model.dtype), names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_a_prompt_cover_it() {
        let steps = prefill_counts(&[1200], 512);
        assert_eq!(steps.iter().map(|c| c.tokens).collect::<Vec<_>>(), [512, 512, 176]);
        assert_eq!(steps.iter().map(|c| c.kv_pairs).sum::<usize>(), 1200 * 1201 / 2);
        assert_eq!(steps.iter().map(|c| c.outputs).sum::<usize>(), 1);
        assert_eq!(prefill_counts(&[512], 512), [Counts::prefill(512)]);
    }

    #[test]
    fn prompts_share_steps() {
        assert_eq!(cut(&[5, 4, 1], 8), [vec![(0, 0..5), (1, 0..3)], vec![(1, 3..4), (2, 0..1)]]);
        let steps = prefill_counts(&[5, 4, 1], 8);
        assert_eq!(steps.iter().map(|c| c.outputs).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(steps.iter().map(|c| c.kv_pairs).sum::<usize>(), 15 + 10 + 1);
        assert_eq!(steps[1].kv_positions, 4 + 1);
    }
}
