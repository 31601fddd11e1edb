//! The sampler's launches and what they leave for the host.

use nvllm_core::device::StepLayout;
use nvllm_core::host::Batch;
use nvllm_core::{Limits, Rows, TokenId, TokenLogprobs, TokenMasks};
use wgpu::Buffer;

use crate::error::Result;
use crate::gpu::{Gpu, Part, padded};
use crate::inputs::Inputs;
use crate::kernel::Kernel;
use crate::lower::{Dim, Dispatch};
use crate::shaders;
use crate::slots::DeviceSlots;

/// Most workgroups that share a row, as `SPLITS` in sample/best.wgsl.
const SPLITS: usize = 32;

/// Workgroups that share a row of so many logits: with work for all of their invocations.
fn splits(vocab: usize) -> usize {
    (vocab / 2048).clamp(1, SPLITS)
}

/// Words of a row in the scratch memory, as `ROW_WORDS` there.
const ROW_WORDS: usize = 2 * SPLITS * 4 + 4;
/// Most likely tokens that the device finds, as in sample/logprobs.wgsl; more are found on the
/// host.
pub(crate) const MAX_TOP: usize = 32;
/// Words of a scored row, as there.
const SCORED_WORDS: usize = 8 + 2 * MAX_TOP;

/// What stands for a token in a row whose logits are NaN or infinite.
pub(crate) const NO_TOKEN: u32 = u32::MAX;

/// A scored row.
#[derive(Clone, Copy)]
pub(crate) struct Scored<'a>(&'a [u32]);

impl Scored<'_> {
    /// Whether the row's logits were neither NaN nor infinite.
    pub(crate) const fn is_usable(self) -> bool {
        self.0[0] != 0
    }

    /// The row's log-probabilities: of the largest logit and the sum relative to it, in f64.
    pub(crate) fn logprobs(self) -> TokenLogprobs {
        let number = |at: usize| f64::from(f32::from_bits(self.0[at]));
        let log_sum_exp = number(1) + number(2).ln();
        let logprob = |at: usize| (number(at) - log_sum_exp) as f32;
        let len = (self.0[4] as usize).min(MAX_TOP);
        let mut top: Vec<_> = (8..8 + len).collect();
        let logit = |at: usize| f32::from_bits(self.0[at + MAX_TOP]);
        top.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(self.0[a].cmp(&self.0[b])));
        TokenLogprobs {
            logprob: logprob(3),
            top: top.into_iter().map(|at| (TokenId(self.0[at]), logprob(at + MAX_TOP))).collect(),
        }
    }
}

/// Buffers of the sampler.
pub(crate) struct Sampler {
    scratch: Buffer,
    /// Tokens `[step_outputs]`, then scored rows.
    pub results: Buffer,
    /// `[step_outputs, mask_words]`: what may be sampled in the rows that await masks.
    masks: Buffer,
    mask_words: usize,
    scored_at: usize,
}

/// The launches that sample one program's logits.
pub(crate) struct Sampling {
    plain: Vec<Dispatch>,
    /// Where of every row the largest logit is taken as it is: nothing is filtered or drawn.
    largest: Vec<Dispatch>,
    pub masked: Vec<Dispatch>,
    pub logprobs: Dispatch,
}

impl Sampling {
    /// The launches that sample the rows of a step that await no masks.
    pub(crate) fn of(&self, batch: &Batch) -> &[Dispatch] {
        if batch.outputs.iter().all(|output| output.largest_only) { &self.largest } else { &self.plain }
    }
}

/// Word at which scored rows begin in the results.
pub(crate) const fn scored_at(step_outputs: usize) -> usize {
    step_outputs.next_multiple_of(4)
}

/// Bytes of one step's results.
pub(crate) const fn result_bytes(step_outputs: usize) -> usize {
    (scored_at(step_outputs) + step_outputs * SCORED_WORDS) * 4
}

/// Bytes of the masks of all rows.
pub(crate) const fn mask_bytes(limits: &Limits, vocab_size: usize) -> usize {
    limits.step_outputs.saturating_mul(vocab_size.div_ceil(32)).saturating_mul(4)
}

/// Bytes of all buffers.
pub(crate) fn bytes_for(limits: &Limits, vocab_size: usize) -> usize {
    let rows = limits.step_outputs;
    let parts = [rows * ROW_WORDS * 4, result_bytes(rows), mask_bytes(limits, vocab_size)];
    parts.map(padded).into_iter().fold(0, usize::saturating_add)
}

/// What a step leaves, read from words of its results.
pub(crate) struct Results<'a> {
    words: &'a [u32],
    scored_at: usize,
}

impl<'a> Results<'a> {
    pub(crate) const fn new(words: &'a [u32], step_outputs: usize) -> Self {
        Self { words, scored_at: scored_at(step_outputs) }
    }

    pub(crate) const fn token(&self, row: usize) -> u32 {
        self.words[row]
    }

    pub(crate) fn scored(&self, row: usize) -> Scored<'a> {
        Scored(&self.words[self.scored_at + row * SCORED_WORDS..][..SCORED_WORDS])
    }
}

impl Sampler {
    pub(crate) fn new(gpu: &Gpu, limits: &Limits, vocab_size: usize) -> Result<Self> {
        let rows = limits.step_outputs;
        Ok(Self {
            scratch: gpu.storage(rows * ROW_WORDS * 4, "the sampler")?,
            results: gpu.storage(result_bytes(rows), "results")?,
            masks: gpu.storage(mask_bytes(limits, vocab_size), "masks")?,
            mask_words: vocab_size.div_ceil(32),
            scored_at: scored_at(rows),
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        [&self.scratch, &self.results, &self.masks].map(|buffer| buffer.size() as usize).iter().sum()
    }

    /// The launches over `logits` `[Outputs, vocab]`.
    pub(crate) fn lower(
        &self,
        gpu: &Gpu,
        inputs: &Inputs,
        slots: &DeviceSlots,
        logits: Part<'_>,
        vocab: usize,
    ) -> Result<Sampling> {
        let StepLayout { outputs, biases, stops, max_biases, max_stops, .. } = inputs.layout;
        let splits = splits(vocab);
        let words = [
            vocab,
            self.mask_words,
            outputs / 4,
            biases / 4,
            stops / 4,
            max_biases,
            max_stops,
            self.scored_at,
            splits,
        ];
        let params = gpu.params(&words.map(|word| word as u32))?;
        let parts = [
            Part::whole(&params),
            Part::whole(&inputs.buffer),
            Part::whole(&slots.states),
            Part::whole(&slots.seen),
            logits,
            Part::whole(&self.masks),
            Part::whole(&self.scratch),
            Part::whole(&self.results),
        ];
        let launch = |kernel: &Kernel, masked: bool, splits: usize| {
            let pipeline = gpu.pipeline(kernel, &shaders::masked(masked))?;
            let group = gpu.bind_group(&pipeline, &parts);
            Ok(Dispatch::new(pipeline, group, Dim::Fixed(splits), Dim::rows(Rows::OUTPUTS)))
        };
        let all = |masked| {
            Ok([
                launch(&shaders::SAMPLE_SCAN, masked, splits)?,
                launch(&shaders::SAMPLE_FILTER, masked, 1)?,
                launch(&shaders::SAMPLE_DRAW, masked, splits)?,
                launch(&shaders::SAMPLE_FINISH, masked, 1)?,
            ])
        };
        let plain = all(false)?;
        let [scan, .., finish] = &plain;
        Ok(Sampling {
            largest: vec![scan.clone(), finish.clone()],
            plain: plain.to_vec(),
            masked: all(true)?.to_vec(),
            logprobs: launch(&shaders::LOGPROBS, false, 1)?,
        })
    }

    /// Uploads the masks of the rows of `batch` that await one, before what is submitted next.
    pub(crate) fn upload_masks(&self, gpu: &Gpu, masks: &TokenMasks, batch: &Batch) {
        let waiting = batch.outputs.iter().enumerate().filter(|(_, output)| output.want.awaits_mask);
        for (row, _) in waiting {
            let words = match masks.of(row) {
                None => vec![u32::MAX; self.mask_words],
                // What a mask does not reach is not allowed.
                Some(words) => {
                    let given = words.iter().copied().chain(std::iter::repeat(0));
                    given.take(self.mask_words).collect()
                }
            };
            gpu.write(&self.masks, row * self.mask_words * 4, bytemuck::cast_slice(&words));
        }
    }
}
