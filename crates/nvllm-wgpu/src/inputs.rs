//! The inputs of a step: uploaded as packed bytes, then spread to the fixed places from which
//! shaders read; and the rotations of its rows, which the host computes.

use nvllm_core::device::StepLayout;
use nvllm_core::host::Batch;
use nvllm_core::{KvGeometry, Limits, Op, Program, RequestLimits, RopeSpec, Step, WeightInfo};
use wgpu::Buffer;

use crate::error::Result;
use crate::gpu::{Gpu, padded};
use crate::split;
use crate::storage::input_bytes;

/// Most biased logits and stop tokens of one sequence.
pub(crate) const REQUEST_LIMITS: RequestLimits = RequestLimits { stop_tokens: 64, logit_biases: 512 };

/// Bytes before the packed ones: the word at which the list of copies begins.
const HEAD: usize = 16;

/// The layout of steps under `limits`.
pub(crate) fn layout(limits: &Limits, kv: &[KvGeometry]) -> StepLayout {
    StepLayout::new(limits, kv, REQUEST_LIMITS)
}

/// The inputs of the step that runs.
pub(crate) struct Inputs {
    pub layout: StepLayout,
    pub packed: Buffer,
    pub buffer: Buffer,
    /// Tokens of all rows, those from slots resolved.
    pub tokens: Buffer,
    pub ropes: Vec<Rope>,
    /// The input of a linear layer whose weight wants it changed.
    pub changed: Buffer,
    /// What chunks of sequences make for attention.
    pub parts: Buffer,
    /// Where the host packs a step.
    staging: Vec<u128>,
}

/// Rotations `[step_tokens, d / 2]` of one kind, as (cos, sin).
pub(crate) struct Rope {
    pub spec: RopeSpec,
    inv_freq: Vec<f32>,
    pub table: Buffer,
}

/// The rotations in `programs`, each once.
fn ropes<'a>(programs: impl Iterator<Item = &'a Program>) -> Vec<&'a RopeSpec> {
    let mut specs: Vec<&RopeSpec> = Vec::new();
    for node in programs.flat_map(|program| &program.nodes) {
        if let Op::Rope(spec) | Op::Attention { rope: spec, .. } = &node.op
            && !specs.contains(&spec)
        {
            specs.push(spec);
        }
    }
    specs
}

fn table_bytes(spec: &RopeSpec, limits: &Limits) -> usize {
    limits.step_tokens * spec.head_dim * 4
}

/// Bytes of all buffers.
pub(crate) fn bytes_for(
    programs: &[Program],
    weights: &[WeightInfo],
    limits: &Limits,
    kv: &[KvGeometry],
) -> usize {
    let layout = layout(limits, kv);
    let tables = ropes(programs.iter()).into_iter().map(|spec| padded(table_bytes(spec, limits)));
    let fixed = [
        layout.packed_len.saturating_add(HEAD),
        layout.len,
        limits.step_tokens.saturating_mul(4),
        input_bytes(programs, weights, limits),
        split::bytes(programs, limits),
    ];
    fixed.map(padded).into_iter().chain(tables).fold(0, usize::saturating_add)
}

impl Inputs {
    pub(crate) fn new(
        gpu: &Gpu,
        programs: &[Program],
        weights: &[WeightInfo],
        limits: &Limits,
        kv: &[KvGeometry],
    ) -> Result<Self> {
        let layout = layout(limits, kv);
        let rope = |spec: &RopeSpec| {
            let table = gpu.storage(table_bytes(spec, limits), "rotations")?;
            Ok(Rope { spec: spec.clone(), inv_freq: spec.inv_freq(), table })
        };
        let staging = HEAD + layout.packed_len;
        Ok(Self {
            packed: gpu.storage(staging, "inputs of a step")?,
            buffer: gpu.storage(layout.len, "inputs of a step")?,
            tokens: gpu.storage(limits.step_tokens * 4, "tokens of a step")?,
            ropes: ropes(programs.iter()).into_iter().map(rope).collect::<Result<_>>()?,
            changed: gpu.storage(input_bytes(programs, weights, limits), "inputs of coded layers")?,
            parts: gpu.storage(split::bytes(programs, limits), "parts of attention")?,
            staging: vec![0; staging.div_ceil(16)],
            layout,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        let tables = self.ropes.iter().map(|rope| &rope.table);
        [&self.packed, &self.buffer, &self.tokens, &self.changed, &self.parts]
            .into_iter()
            .chain(tables)
            .map(|b| b.size() as usize)
            .sum()
    }

    /// The rotations of one kind; there are those of every rotation of the model.
    pub(crate) fn rotations(&self, spec: &RopeSpec) -> &Buffer {
        self.ropes.iter().find(|rope| rope.spec == *spec).map_or(&self.buffer, |rope| &rope.table)
    }

    /// Packs a step and uploads it, before what is submitted next. Returns the number of copies
    /// that spread it, and the bytes uploaded.
    pub(crate) fn upload(&mut self, gpu: &Gpu, step: &Step, batch: &Batch) -> (usize, usize) {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.staging);
        let (head, rest) = bytes.split_at_mut(HEAD);
        let packed = self.layout.pack(rest, step, batch, [batch.tokens.len(), batch.seqs.len()]);
        head[..4].copy_from_slice(&((packed.copies_at / 4) as u32).to_le_bytes());
        let used = (HEAD + packed.copies_at + packed.num_copies * 16).next_multiple_of(4);
        gpu.write(&self.packed, 0, &bytes[..used]);
        let mut uploaded = used;
        for rope in &self.ropes {
            let turn = |&position| rope.spec.rotation(position, &rope.inv_freq);
            let rotations: Vec<[f32; 2]> = batch.positions.iter().flat_map(turn).collect();
            gpu.write(&rope.table, 0, bytemuck::cast_slice(&rotations));
            uploaded += size_of_val(&rotations[..]);
        }
        (packed.num_copies, uploaded)
    }
}
