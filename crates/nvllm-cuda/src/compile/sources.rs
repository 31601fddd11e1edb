//! The kernels' sources, inside the binary.

use super::Target;

/// One file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its path under `kernels/`.
    pub path: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Whether it compiles for an architecture: a file for tensor cores of one generation does for that one only.
    pub takes: fn(Target) -> bool,
}

macro_rules! file {
    ($path:literal) => {
        include_str!(concat!("../../kernels/", $path))
    };
}

macro_rules! sources {
    ($($path:literal),* $(,)?) => {
        &[$(Source { path: $path, text: file!($path), takes: |_| true }),*]
    };
}

const SOURCES: &[Source] = sources![
    "step/begin.cu",
    "embed/general.cu",
    "rms_norm/general.cu",
    "linear/general.cu",
    "add/general.cu",
    "silu_mul/general.cu",
    "slice_cols/general.cu",
    "rope/general.cu",
    "kv_append/general.cu",
    "paged_attention/general.cu",
    "gather_rows/general.cu",
    "top_k/general.cu",
    "expert_linear/general.cu",
    "weighted_sum/general.cu",
    "sample/general.cu",
    "bandwidth/read.cu",
];

/// Files that kernels include, by the name in the include.
pub(super) const HEADERS: &[(&str, &str)] = &[
    ("dtype.cuh", file!("common/dtype.cuh")),
    ("reduce.cuh", file!("common/reduce.cuh")),
    ("dot.cuh", file!("common/dot.cuh")),
    ("step.cuh", file!("common/step.cuh")),
    ("philox.cuh", file!("sample/philox.cuh")),
    ("row.cuh", file!("sample/row.cuh")),
    ("select.cuh", file!("sample/select.cuh")),
];

/// Every file of kernels.
pub fn sources() -> &'static [Source] {
    SOURCES
}
