//! The kernels' sources, inside the binary.

use super::Target;

/// One file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its path under `kernels/`.
    pub path: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Whether it compiles for an architecture: a file for tensor cores of one generation does for
    /// that one only.
    pub takes: fn(Target) -> bool,
}

macro_rules! file {
    ($path:literal) => {
        include_str!(concat!("../../kernels/", $path))
    };
}

macro_rules! takes {
    () => {
        |_| true
    };
    ($target:expr) => {
        |target| target == $target
    };
}

/// Paths, each with the one architecture that it compiles for if it does not for all.
macro_rules! sources {
    ($($path:literal $(for $target:expr)?),* $(,)?) => {
        &[$(Source { path: $path, text: file!($path), takes: takes!($($target)?) }),*]
    };
}

const SOURCES: &[Source] = sources![
    "step/begin.cu",
    "embed/general.cu",
    "embed/coded.cu",
    "rms_norm/general.cu",
    "rms_norm/fused.cu",
    "linear/general.cu",
    "linear/coded_general.cu",
    "linear/coded_input.cu",
    "linear/coded_rows.cu",
    "linear/coded_few.cu",
    "linear/coded_many.cu",
    "linear/small_m.cu",
    "linear/mid_m.cu",
    "linear/tensor_core.cu",
    "linear/wgmma.cu" for Target::Cubin(90),
    "linear/cluster_split.cu" for Target::Cubin(90),
    "add/general.cu",
    "silu_mul/general.cu",
    "slice_cols/general.cu",
    "rope/general.cu",
    "kv_append/general.cu",
    "paged_attention/general.cu",
    "attention/work_list.cu",
    "attention/decode.cu",
    "attention/prefill.cu",
    "qk_norm_rope_append/fused.cu",
    "decode_pass/decode_pass.cu" for Target::Cubin(90),
    "gather_rows/general.cu",
    "top_k/general.cu",
    "expert_linear/general.cu",
    "expert_linear/coded.cu",
    "weighted_sum/general.cu",
    "sample/scan.cu",
    "sample/bins.cu",
    "sample/draw.cu",
    "sample/finish.cu",
    "sample/logprobs.cu",
    "bandwidth/read.cu",
];

/// Files that kernels include, by the name in the include.
pub(super) const HEADERS: &[(&str, &str)] = &[
    ("dtype.cuh", file!("common/dtype.cuh")),
    ("reduce.cuh", file!("common/reduce.cuh")),
    ("dot.cuh", file!("common/dot.cuh")),
    ("step.cuh", file!("common/step.cuh")),
    ("coded.cuh", file!("common/coded.cuh")),
    ("prelude.cuh", file!("common/prelude.cuh")),
    ("hopper.cuh", file!("common/hopper.cuh")),
    ("linear_order.cuh", file!("linear/linear_order.cuh")),
    ("codes.cuh", file!("linear/codes.cuh")),
    ("coded_stage.cuh", file!("linear/coded_stage.cuh")),
    ("coded_order.cuh", file!("linear/coded_order.cuh")),
    ("input_quant.cuh", file!("linear/input_quant.cuh")),
    ("input_row.cuh", file!("linear/input_row.cuh")),
    ("linear_store.cuh", file!("linear/linear_store.cuh")),
    ("attention_order.cuh", file!("attention/attention_order.cuh")),
    ("attention_fold.cuh", file!("attention/attention_fold.cuh")),
    ("head.cuh", file!("qk_norm_rope_append/head.cuh")),
    ("phase.cuh", file!("decode_pass/phase.cuh")),
    ("packet.cuh", file!("decode_pass/packet.cuh")),
    ("pass_state.cuh", file!("decode_pass/pass_state.cuh")),
    ("weight_ring.cuh", file!("decode_pass/weight_ring.cuh")),
    ("chunks.cuh", file!("decode_pass/chunks.cuh")),
    ("linear_phase.cuh", file!("decode_pass/linear_phase.cuh")),
    ("attention_phase.cuh", file!("decode_pass/attention_phase.cuh")),
    ("kv_kind.cuh", file!("common/kv_kind.cuh")),
    ("kv_codes.cuh", file!("attention/kv_codes.cuh")),
    ("kv_quant.cuh", file!("kv_append/kv_quant.cuh")),
    ("norm_order.cuh", file!("rms_norm/norm_order.cuh")),
    ("philox.cuh", file!("sample/philox.cuh")),
    ("row.cuh", file!("sample/row.cuh")),
    ("order.cuh", file!("sample/order.cuh")),
    ("filter.cuh", file!("sample/filter.cuh")),
    ("border.cuh", file!("sample/border.cuh")),
    ("gumbel.cuh", file!("sample/gumbel.cuh")),
    ("select.cuh", file!("sample/select.cuh")),
];

/// Every file of kernels.
pub fn sources() -> &'static [Source] {
    SOURCES
}
