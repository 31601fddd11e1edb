//! From a program to launches: made once at load, with every address known.
//!
//! Each op's function names its kernel and arguments. Where an op has several kernels, [`choice`]
//! picks by a table in the op's file: a faster kernel is one more entry there, with the shapes that
//! it takes and the order in which it sums.

mod attention;
mod attention_shape;
mod choice;
mod decode_pass;
mod dynamic_shared;
mod linear;
mod lowering;
mod rows;
mod stage;
mod vendor;

use choice::Chosen;
use nvllm_core::program::QkNorm;
use nvllm_core::{Op, OpQuery, Rows};

use crate::error::Result;
use crate::launch::Launch;
use crate::weights;

pub(crate) use attention_shape::{MAX_HEAD_DIM, attends_fast, fast_shape};
pub(crate) use decode_pass::pass_bytes;
pub use dynamic_shared::{LISTED_COLS, dynamic_shared};
pub(crate) use linear::{input_bytes, partial_bytes, runs_gated};
pub(crate) use lowering::{LANES, Lowering, Operand, c_type, dtype_code};
pub(crate) use stage::{Schedule, Stage, ranges};
pub use vendor::Vendor;
pub(crate) use vendor::{Tuning, wanted as wants_vendor, workspace_bytes};

impl Lowering<'_> {
    /// The program's stages, the vendor's aside.
    pub(crate) fn schedule(&self) -> Result<Schedule> {
        let nodes = 0..self.program.nodes.len();
        let stages = nodes.map(|at| self.stages(at)).collect::<Result<_>>()?;
        Ok(Schedule::new(self.program, stages, self.decode_pass(1)?))
    }

    /// The stages that may begin with node `at`, the decode pass aside.
    fn stages(&self, at: usize) -> Result<Vec<Stage>> {
        let node = &self.program.nodes[at];
        let anchor = node.outputs.first().or(node.inputs.first());
        let rows = anchor.map_or(Rows::TOKENS, |&id| self.program.value(id).rows);
        let chosen = self.node(at)?;
        let alone = chosen.into_iter().map(|chosen| Stage::node(at, rows, chosen));
        Ok(self.norm_inside(at)?.into_iter().chain(alone).collect())
    }

    /// What runs node `at` alone, by the rows that it takes at most.
    fn node(&self, at: usize) -> Result<Vec<Chosen>> {
        let node = &self.program.nodes[at];
        let (ins, outs) = (&node.inputs, &node.outputs);
        let all = |launches: Vec<Launch>| Ok(vec![Chosen::any(LANES, launches)]);
        let one = |launch: Launch| all(vec![launch]);
        match &node.op {
            Op::Embed { table } => all(self.embed(*table, self.value(outs[0]), at == 0)?),
            Op::RmsNorm { weight, eps } => {
                self.rms_norm(self.value(ins[0]), *weight, *eps, self.value(outs[0]))
            }
            Op::Linear { .. } | Op::LinearAdd { .. } | Op::LinearSiluMul { .. } => self.linear(at),
            Op::Add => one(self.add(self.value(ins[0]), self.value(ins[1]), self.value(outs[0]))?),
            Op::SiluMul => one(self.silu_mul(self.value(ins[0]), self.value(outs[0]))?),
            Op::SliceCols { start, .. } => {
                one(self.slice_cols(self.value(ins[0]), *start, self.value(outs[0]))?)
            }
            // A world of one.
            Op::AllReduce | Op::AllGather => {
                one(self.slice_cols(self.value(ins[0]), 0, self.value(outs[0]))?)
            }
            Op::Rope(spec) => one(self.rope(self.value(ins[0]), spec, self.value(outs[0]))?),
            Op::KvAppend { kv } => one(self.kv_append(self.value(ins[0]), self.value(ins[1]), *kv)?),
            Op::PagedAttention { spec, kv } => {
                self.paged_attention(at, self.value(ins[0]), spec, *kv, self.value(outs[0]))
            }
            Op::GatherRows => one(self.gather_rows(self.value(ins[0]), self.value(outs[0]))?),
            Op::TopK { k, renormalize } => {
                let out = [self.value(outs[0]), self.value(outs[1])];
                one(self.top_k(self.value(ins[0]), *k, *renormalize, out)?)
            }
            Op::ExpertLinear { weight } => all(self.expert_linear(
                self.value(ins[0]),
                self.value(ins[1]),
                *weight,
                self.value(outs[0]),
            )?),
            Op::WeightedSum => {
                one(self.weighted_sum(self.value(ins[0]), self.value(ins[1]), self.value(outs[0]))?)
            }
            Op::Attention { norm, rope, spec, kv } => {
                let (qkv, y) = (self.value(ins[0]), self.value(outs[0]));
                self.attention(at, qkv, (norm.as_ref(), rope), spec, *kv, y)
            }
        }
    }
}

/// Whether fused attention runs as it is.
pub(crate) fn runs(query: &OpQuery<'_>) -> bool {
    let Op::Attention { norm, rope, spec, .. } = query.op else { return true };
    let exact = |norm: &QkNorm| [norm.q, norm.k].into_iter().all(|id| weights::narrow(query.weight(id)));
    attends_fast(spec, query.limits) && rope.head_dim == spec.head_dim && norm.as_ref().is_none_or(exact)
}
