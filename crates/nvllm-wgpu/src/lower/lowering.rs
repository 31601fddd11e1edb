//! What lowering a program needs, and each node's room.

use nvllm_core::device::StepLayout;
use nvllm_core::program::MemoryPlan;
use nvllm_core::{Activations, Limits, Op, OrderId, Program, Rows, ValueId, ValueKind};
use wgpu::Buffer;

use super::{Dim, Dispatch, Stage};
use crate::error::Result;
use crate::gpu::{Gpu, Part};
use crate::inputs::Inputs;
use crate::kernel::Kernel;
use crate::kv::WgpuKv;
use crate::weights::Weights;

/// Of ops without sums.
pub(super) const ANY: OrderId = OrderId("any");

/// What a linear layer reads: a value, or what was made of one.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub part: Part<'a>,
    pub cols: usize,
    pub rows: Rows,
}

pub(crate) struct Lowering<'a> {
    pub gpu: &'a Gpu,
    pub program: &'a Program,
    pub plan: &'a MemoryPlan,
    pub arena: &'a [Buffer],
    pub weights: &'a Weights,
    pub inputs: &'a Inputs,
    pub kv: &'a WgpuKv,
    pub limits: &'a Limits,
}

impl<'a> Lowering<'a> {
    /// The launches of every node, in order.
    pub(crate) fn stages(&self) -> Result<Vec<Stage>> {
        (0..self.program.nodes.len()).map(|at| self.node(at)).collect()
    }

    fn node(&self, at: usize) -> Result<Stage> {
        let node = &self.program.nodes[at];
        match &node.op {
            Op::Embed { table } => self.embed(node, *table),
            Op::RmsNorm { weight, eps } => self.rms_norm(at, *weight, *eps),
            Op::Linear { weight, bias } | Op::LinearAdd { weight, bias } => {
                self.linear(at, *weight, *bias, false)
            }
            Op::Add => self.add(node),
            Op::SiluMul => self.silu_mul(node),
            Op::SliceCols { start, len } => self.slice_cols(node, *start, *len),
            Op::Rope(spec) => self.rope(node, spec),
            Op::KvAppend { kv } => self.kv_append(node, *kv),
            Op::PagedAttention { spec, kv } => self.paged_attention(node, spec, *kv),
            Op::GatherRows => self.gather_rows(node),
            Op::TopK { k, renormalize } => self.top_k(node, *k, *renormalize),
            Op::ExpertLinear { weight } => self.expert_linear(node, *weight),
            Op::WeightedSum => self.weighted_sum(node),
            // In a world of one rank.
            Op::AllReduce | Op::AllGather => self.slice_cols(node, 0, self.cols(node.inputs[0])),
            Op::LinearSiluMul { weight, bias } => self.linear(at, *weight, *bias, true),
            Op::Attention { norm, rope, spec, kv } => self.attention(node, *norm, rope, spec, *kv),
        }
    }

    /// Memory of a value at its largest extent.
    pub(crate) fn value(&self, id: ValueId) -> Part<'a> {
        let place = self.plan.place(id);
        Part { buffer: &self.arena[place.segment], at: place.offset, len: place.bytes }
    }

    pub(super) fn cols(&self, id: ValueId) -> usize {
        self.program.value(id).cols
    }

    pub(super) fn rows(&self, id: ValueId) -> Rows {
        self.program.value(id).rows
    }

    /// Whether a value is rounded to bf16 when it is stored.
    pub(super) fn rounds(&self, id: ValueId) -> bool {
        let is_activation = self.program.value(id).kind == ValueKind::Act;
        is_activation && self.limits.activations == Activations::Bf16
    }

    /// Word of the inputs that counts what `rows` are of.
    pub(super) const fn count_word(rows: Rows) -> usize {
        StepLayout::count(rows.of) / 4
    }

    /// A launch of `kernel` over `parts`, which follow the parameters.
    pub(super) fn launch(
        &self,
        kernel: &Kernel,
        constants: &str,
        params: &[u32],
        parts: &[Part<'_>],
        [x, y]: [Dim; 2],
    ) -> Result<Dispatch> {
        let pipeline = self.gpu.pipeline(kernel, constants)?;
        let params = self.gpu.params(params)?;
        let parts: Vec<_> = [Part::whole(&params)].into_iter().chain(parts.iter().copied()).collect();
        let group = self.gpu.bind_group(&pipeline, &parts);
        Ok(Dispatch::new(pipeline, group, x, y))
    }
}
