//! Element types and modes in the kernels' names.

use nvllm_core::{Activations, DType};

use crate::{ActMode, Elem};

/// The kernels' name of a dtype that they know.
pub(super) const fn elem(dtype: DType) -> Option<Elem> {
    match dtype {
        DType::F32 => Some(Elem::F32),
        DType::F16 => Some(Elem::F16),
        DType::Bf16 => Some(Elem::Bf16),
        DType::I32 | DType::U8 => None,
    }
}

/// The kernels' name of the activation dtype.
pub(super) const fn act_elem(activations: Activations) -> Elem {
    match activations {
        Activations::F32 => Elem::F32,
        Activations::Bf16 => Elem::Bf16,
    }
}

/// How linear layers multiply under these activations.
pub(super) const fn mode(activations: Activations) -> ActMode {
    match activations {
        Activations::F32 => ActMode::F32,
        Activations::Bf16 => ActMode::Bf16,
    }
}
