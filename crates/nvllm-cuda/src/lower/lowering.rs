//! What launches are made from: where everything of a loaded model lies.

use nvllm_core::program::MemoryPlan;
use nvllm_core::{DType, Limits, OrderId, Program, Rows, ValueId};

use crate::error::{CudaError, Result};
use crate::inputs::Inputs;
use crate::kernels::common::dtype as codes;
use crate::kv::CudaKv;
use crate::launch::Args;
use crate::memory::{Address, Buffer};
use crate::modules::{Function, Modules};
use crate::rope::RopeTables;
use crate::weights::Weights;
use crate::work_lists::WorkLists;

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
    /// Memory for the stage that is a whole pass.
    pub pass: &'a Buffer,
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

/// Its number in kernels. Errors for integers and bytes, which no kernel may take for numbers.
pub(crate) fn dtype_code(dtype: DType) -> Result<usize> {
    match dtype {
        DType::F32 => Ok(codes::F32),
        DType::Bf16 => Ok(codes::BF16),
        DType::F16 => Ok(codes::F16),
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
