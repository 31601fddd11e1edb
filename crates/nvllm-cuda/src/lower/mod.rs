//! From a program to launches: made once at load, with every address known.
//!
//! Each op's function names its kernel and arguments. Where an op has several kernels, [`choice`]
//! picks by a table in the op's file: a faster kernel is one more entry there, with the shapes that
//! it takes and the order in which it sums.

mod attention;
mod choice;
mod linear;
mod rows;
mod stage;
mod vendor;

use choice::Chosen;
use nvllm_core::program::{MemoryPlan, QkNorm};
use nvllm_core::{DType, Limits, Op, OpQuery, OrderId, Program, Rows, ValueId};

use crate::error::{CudaError, Result};
use crate::inputs::Inputs;
use crate::kv::CudaKv;
use crate::launch::{Args, Launch};
use crate::memory::Address;
use crate::modules::{Function, Modules};
use crate::rope::RopeTables;
use crate::weights::{self, Weights};
use crate::work_lists::WorkLists;

pub(crate) use attention::{MAX_HEAD_DIM, attends_fast, fast_shape};
pub(crate) use linear::{input_bytes, partial_bytes, runs_gated};
pub(crate) use stage::{Schedule, Stage, ranges};
pub use vendor::Vendor;
pub(crate) use vendor::{Tuning, wanted as wants_vendor, workspace_bytes};

/// The order of every kernel that sums as `common/dot.cuh` says, or not at all.
pub(crate) const LANES: OrderId = OrderId("cuda-lanes-32");

/// What launches are made from.
pub(crate) struct Lowering<'a> {
    pub modules: &'a Modules,
    pub program: &'a Program,
    pub plan: &'a MemoryPlan,
    pub arena: Address,
    pub weights: &'a Weights,
    pub inputs: &'a Inputs,
    pub kv: &'a CudaKv,
    pub ropes: &'a RopeTables,
    pub lists: &'a WorkLists,
    /// Memory for partial sums of linear layers.
    pub partial: Address,
    pub limits: &'a Limits,
}

/// A value as a kernel takes it.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    pub at: Address,
    pub dtype: DType,
    pub rows: Rows,
    pub cols: usize,
}

/// As `enum DTypeCode` in dtype.cuh. Errors for integers and bytes, which no kernel may take for
/// numbers.
pub(crate) fn dtype_code(dtype: DType) -> Result<usize> {
    match dtype {
        DType::F32 => Ok(0),
        DType::Bf16 => Ok(1),
        DType::F16 => Ok(2),
        DType::I32 | DType::U8 => Err(CudaError::NoFloat { dtype }),
    }
}

/// The C++ type of a dtype, as it stands in kernels' names. Errors as [`dtype_code`].
pub(crate) fn c_type(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("float"),
        DType::Bf16 => Ok("bf16"),
        DType::F16 => Ok("f16"),
        DType::I32 | DType::U8 => Err(CudaError::NoFloat { dtype }),
    }
}

impl Args {
    /// Address and dtype.
    pub(crate) fn typed(self, operand: Operand) -> Result<Self> {
        Ok(self.ptr(operand.at).int(dtype_code(operand.dtype)?))
    }
}

impl Lowering<'_> {
    /// The program's stages, the vendor's aside.
    pub(crate) fn schedule(&self) -> Result<Schedule> {
        let nodes = 0..self.program.nodes.len();
        nodes.map(|at| self.stages(at)).collect::<Result<_>>().map(Schedule::new)
    }

    /// The stages that may begin with node `at`.
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
            Op::Embed { table } => all(self.embed(*table, self.value(outs[0]))?),
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
                self.paged_attention(self.value(ins[0]), spec, *kv, self.value(outs[0]))
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
                self.attention(qkv, (norm.as_ref(), rope), spec, *kv, y)
            }
        }
    }

    /// A value's place.
    pub(crate) fn value(&self, id: ValueId) -> Operand {
        let value = self.program.value(id);
        Operand {
            at: self.arena + self.plan.place(id).offset as Address,
            dtype: value.kind.dtype(self.limits),
            rows: value.rows,
            cols: value.cols,
        }
    }

    pub(crate) fn function(&self, name: &str) -> Result<Function> {
        self.modules.function(name)
    }

    /// The counts: first argument of kernels over tokens or outputs.
    pub(crate) fn counts(&self) -> Address {
        self.inputs.at(0)
    }

    /// Arguments of kernels over any rows: the count's address and the factor.
    pub(crate) fn extent(&self, rows: Rows) -> Args {
        Args::new().ptr(self.inputs.count(rows.of)).int(rows.times)
    }
}

/// Whether fused attention runs as it is.
pub(crate) fn runs(query: &OpQuery<'_>) -> bool {
    let Op::Attention { norm, rope, spec, .. } = query.op else { return true };
    let exact = |norm: &QkNorm| [norm.q, norm.k].into_iter().all(|id| weights::narrow(query.weight(id)));
    attends_fast(spec, query.limits) && rope.head_dim == spec.head_dim && norm.as_ref().is_none_or(exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kernel_takes_integers_or_bytes_for_numbers() {
        for dtype in [DType::I32, DType::U8] {
            assert!(dtype_code(dtype).is_err() && c_type(dtype).is_err(), "{dtype}");
        }
        assert_eq!(
            [DType::F32, DType::Bf16, DType::F16].map(|dtype| dtype_code(dtype).ok()),
            [0, 1, 2].map(Some)
        );
    }
}
