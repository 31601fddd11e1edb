//! The sampler's launches and what they leave for the host: in its own memory, at the address that
//! the head of the step's inputs holds.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use cudarc::driver::CudaEvent;
use nvllm_core::host::Batch;
use nvllm_core::{Limits, Rows, TokenId, TokenLogprobs, TokenMasks};

use crate::device::Device;
use crate::error::{Doing, Result};
use crate::inputs::Inputs;
use crate::kernels::sample::filter::{MIN_SPLITS, SPLITS, WORK_BYTES};
use crate::launch::{Args, Dim, Launch};
use crate::memory::{Address, Buffer, Pinned};
use crate::modules::Modules;
use crate::slots::DeviceSlots;

/// Most likely tokens that the device finds; more are found on the host.
pub(crate) use crate::kernels::sample::logprobs::MAX_TOP;

/// Blocks of all rows together: what fills a large device once.
const ALL_BLOCKS: usize = 1024;

/// What stands for a token in a row whose logits are NaN or infinite.
pub(crate) const NO_TOKEN: u32 = u32::MAX;

/// A scored row, as `struct Scored`.
#[derive(Clone, Copy, Debug, Zeroable, Pod)]
#[repr(C)]
pub(crate) struct Scored {
    log_sum_exp: f64,
    logit: f32,
    num_top: u32,
    ids: [u32; MAX_TOP],
    logits: [f32; MAX_TOP],
}
const _: () = assert!(size_of::<Scored>() == 16 + 8 * MAX_TOP);

impl Scored {
    /// Whether the row's logits were neither NaN nor infinite: their sum then is.
    pub(crate) fn is_usable(&self) -> bool {
        self.log_sum_exp.is_finite()
    }

    /// The row's log-probabilities, as the definition on the host rounds them.
    pub(crate) fn logprobs(&self) -> TokenLogprobs {
        let logprob = |logit: f32| (f64::from(logit) - self.log_sum_exp) as f32;
        let len = (self.num_top as usize).min(MAX_TOP);
        let mut top: Vec<_> = self.ids[..len].iter().zip(&self.logits[..len]).collect();
        top.sort_by(|a, b| b.1.total_cmp(a.1).then(a.0.cmp(b.0)));
        TokenLogprobs {
            logprob: logprob(self.logit),
            top: top.into_iter().map(|(&id, &logit)| (TokenId(id), logprob(logit))).collect(),
        }
    }
}

/// Buffers of the sampler.
pub(crate) struct Sampler {
    /// `[step_outputs]`: what the kernels leave for each other.
    work: Buffer,
    /// `[step_outputs, mask_words]`: what may be sampled in the rows of a step that awaited masks.
    masks: Buffer,
    staged_masks: Pinned,
    /// The compute stream has read `masks`.
    masks_read: CudaEvent,
    mask_words: usize,
    num_outputs: usize,
}

/// The launches that sample one program's logits.
pub(crate) struct Sampling {
    pub plain: Vec<Launch>,
    pub masked: Vec<Launch>,
    pub logprobs: Launch,
}

/// Offset of scored rows in a step's results, behind its tokens `[step_outputs]`.
pub(crate) const fn scored_at(step_outputs: usize) -> usize {
    (step_outputs * 4).next_multiple_of(16)
}

/// Bytes of one step's results.
pub(crate) const fn result_bytes(step_outputs: usize) -> usize {
    scored_at(step_outputs) + step_outputs * size_of::<Scored>()
}

impl Sampler {
    /// Bytes that the buffers take.
    pub(crate) fn bytes_for(limits: &Limits, vocab_size: usize) -> usize {
        let row = WORK_BYTES + vocab_size.div_ceil(32) * 4;
        limits.step_outputs * row
    }

    pub(crate) fn new(device: &Arc<Device>, limits: &Limits, vocab_size: usize) -> Result<Self> {
        let rows = limits.step_outputs;
        let mask_words = vocab_size.div_ceil(32);
        Ok(Self {
            work: Buffer::zeroed(device, rows * WORK_BYTES)?,
            masks: Buffer::zeroed(device, rows * mask_words * 4)?,
            staged_masks: Pinned::new(device, rows * mask_words * 4)?,
            masks_read: device.context.new_event(None).doing("making an event")?,
            mask_words,
            num_outputs: rows,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.work.len() + self.masks.len()
    }

    /// The launches over `logits` `[Outputs, vocab]`.
    pub(crate) fn lower(
        &self,
        modules: &Modules,
        inputs: &Inputs,
        slots: &DeviceSlots,
        logits: Address,
        vocab: usize,
    ) -> Result<Sampling> {
        let outputs = inputs.at(inputs.layout.outputs);
        let names = ["sample_scan", "sample_bins", "sample_draw"];
        let [scan, bins, draw] = names.map(|name| modules.function(name));
        let [scan, bins, draw] = [scan?, bins?, draw?];
        let finish = modules.function("sample_finish")?;
        let params = |masked: bool| {
            let masks = if masked { self.masks.at(0) } else { 0 };
            Args::new()
                .ptr(inputs.at(0))
                .ptr(outputs)
                .ptr(slots.states.at(0))
                .ptr(inputs.at(inputs.layout.biases))
                .ptr(inputs.at(inputs.layout.stops))
                .ptr(slots.seen.at(0))
                .ptr(slots.touched.at(0))
                .ptr(logits)
                .ptr(masks)
                .int(vocab)
        };
        let rows = Dim::each(Rows::OUTPUTS);
        let splits = Dim::Shares { rows: Rows::OUTPUTS, all: ALL_BLOCKS, range: [MIN_SPLITS, SPLITS] };
        let work = self.work.at(0);
        let launches = |masked| {
            let launch = |function, blocks| Launch::new(function, blocks, params(masked).ptr(work)).early();
            let shares = |function| launch(function, splits).by(rows);
            // The scan finds the likeliest token; only what is drawn needs more.
            let [bins, draw] = [&bins, &draw].map(|function| shares(function).only(|step| step.draws));
            vec![shares(&scan), bins, draw, launch(&finish, rows)]
        };
        let args = Args::new()
            .ptr(inputs.at(0))
            .ptr(outputs)
            .ptr(slots.states.at(0))
            .ptr(logits)
            .int(vocab)
            .int(scored_at(self.num_outputs));
        let logprobs = Launch::new(&modules.function("logprobs")?, rows, args);
        Ok(Sampling { plain: launches(false), masked: launches(true), logprobs })
    }

    /// Uploads the masks of the rows of `batch` that await one; what the compute stream does next
    /// follows their arrival.
    pub(crate) fn upload_masks(&mut self, device: &Device, masks: &TokenMasks, batch: &Batch) -> Result<()> {
        let row_bytes = self.mask_words * 4;
        let waiting = batch.outputs.iter().enumerate().filter(|(_, output)| output.want.awaits_mask);
        let rows: Vec<usize> = waiting.map(|(row, _)| row).collect();
        let staged = self.staged_masks.bytes_mut()?;
        for &row in &rows {
            let out = &mut staged[row * row_bytes..][..row_bytes];
            match masks.of(row) {
                None => out.fill(0xff),
                // What a mask does not reach is not allowed.
                Some(words) => {
                    let words: &[u8] = bytemuck::cast_slice(&words[..words.len().min(self.mask_words)]);
                    out[..words.len()].copy_from_slice(words);
                    out[words.len()..].fill(0);
                }
            }
        }
        let ranges = rows.into_iter().map(|row| row * row_bytes..(row + 1) * row_bytes);
        device.copies.wait(&self.masks_read).doing("ordering two streams")?;
        let arrived = self.staged_masks.upload(&device.copies, ranges, &self.masks)?;
        device.stream.wait(arrived).doing("ordering two streams")
    }

    /// Says that the compute stream has read the masks.
    pub(crate) fn masks_are_read(&self, device: &Device) -> Result<()> {
        self.masks_read.record(&device.stream).doing("recording an event")
    }
}
