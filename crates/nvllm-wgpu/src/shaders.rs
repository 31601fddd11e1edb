//! All shaders, and the constants that they are compiled with.

use nvllm_core::{DType, KvFormat};

use crate::kernel::Bind::{Params, Read, Write};
use crate::kernel::{Bind, Kernel};

const VALUES: &str = include_str!("../shaders/common/values.wgsl");
const HALVES: &str = include_str!("../shaders/common/halves.wgsl");
const WEIGHTS: &str = include_str!("../shaders/common/weights.wgsl");
const SILU: &str = include_str!("../shaders/common/silu.wgsl");
const BEGIN: &str = include_str!("../shaders/step/begin.wgsl");
const BEGIN_BINDINGS: &[Bind] = &[Params, Read, Write, Write, Write];

const fn begin(name: &'static str, entry: &'static str) -> Kernel {
    Kernel { name, includes: &[], source: BEGIN, entry, bindings: BEGIN_BINDINGS }
}

/// A shader of one entry point whose numbers are those of values.
const fn of_values(
    name: &'static str,
    includes: &'static [&'static str],
    source: &'static str,
    bindings: &'static [Bind],
) -> Kernel {
    Kernel { name, includes, source, entry: "main", bindings }
}

pub(crate) const SPREAD: Kernel = begin("step_spread", "spread");
pub(crate) const TAKE_SLOTS: Kernel = begin("step_take_slots", "take_slots");
pub(crate) const TAKE_TOKENS: Kernel = begin("step_take_tokens", "take_tokens");

pub(crate) const EMBED: Kernel = of_values(
    "embed",
    &[VALUES, HALVES, WEIGHTS],
    include_str!("../shaders/embed/general.wgsl"),
    &[Params, Read, Read, Write],
);
pub(crate) const RMS_NORM: Kernel = of_values(
    "rms_norm",
    &[VALUES],
    include_str!("../shaders/rms_norm/general.wgsl"),
    &[Params, Read, Read, Write],
);
const LINEAR_BINDINGS: &[Bind] = &[Params, Read, Read, Read, Read, Read, Write];
const LINEAR_SOURCE: &str = include_str!("../shaders/linear/general.wgsl");
/// Linear layers of rows of any length.
pub(crate) const LINEAR: Kernel = of_values(
    "linear",
    &[VALUES, HALVES, WEIGHTS, SILU, include_str!("../shaders/linear/elements.wgsl")],
    LINEAR_SOURCE,
    LINEAR_BINDINGS,
);
/// Linear layers of rows of whole 16 bytes.
pub(crate) const LINEAR_WIDE: Kernel = of_values(
    "linear_wide",
    &[VALUES, HALVES, SILU, include_str!("../shaders/linear/wide.wgsl")],
    LINEAR_SOURCE,
    LINEAR_BINDINGS,
);
pub(crate) const EXPERT_LINEAR: Kernel = of_values(
    "expert_linear",
    &[VALUES, HALVES, WEIGHTS],
    include_str!("../shaders/expert_linear/general.wgsl"),
    &[Params, Read, Read, Read, Write],
);
pub(crate) const ADD: Kernel =
    of_values("add", &[VALUES], include_str!("../shaders/add/general.wgsl"), &[Params, Read, Read, Write]);
pub(crate) const SILU_MUL: Kernel = of_values(
    "silu_mul",
    &[VALUES, SILU],
    include_str!("../shaders/silu_mul/general.wgsl"),
    &[Params, Read, Write],
);
pub(crate) const SLICE_COLS: Kernel =
    of_values("slice_cols", &[], include_str!("../shaders/slice_cols/general.wgsl"), &[Params, Read, Write]);
pub(crate) const GATHER_ROWS: Kernel = of_values(
    "gather_rows",
    &[],
    include_str!("../shaders/gather_rows/general.wgsl"),
    &[Params, Read, Read, Write],
);
pub(crate) const ROPE: Kernel =
    of_values("rope", &[VALUES], include_str!("../shaders/rope/general.wgsl"), &[Params, Read, Read, Write]);
pub(crate) const KV_APPEND: Kernel = of_values(
    "kv_append",
    &[VALUES],
    include_str!("../shaders/kv_append/general.wgsl"),
    &[Params, Read, Read, Read, Write],
);
pub(crate) const TOP_K: Kernel =
    of_values("top_k", &[], include_str!("../shaders/top_k/general.wgsl"), &[Params, Read, Write, Write]);
pub(crate) const WEIGHTED_SUM: Kernel = of_values(
    "weighted_sum",
    &[VALUES],
    include_str!("../shaders/weighted_sum/general.wgsl"),
    &[Params, Read, Read, Write],
);

pub(crate) const BANDWIDTH: Kernel =
    of_values("bandwidth", &[], include_str!("../shaders/bandwidth/read.wgsl"), &[Read, Write]);

/// Most segments of one layer's cache.
pub(crate) const MOST_SEGMENTS: usize = 4;

const ATTENTION: &str = include_str!("../shaders/paged_attention/general.wgsl");
const QK: &str = include_str!("../shaders/qk_norm_rope_append/fused.wgsl");

const fn of_cache(name: &'static str, source: &'static str, bindings: &'static [Bind]) -> Kernel {
    of_values(name, &[VALUES], source, bindings)
}

/// Attention over a cache in so many segments, up to [`MOST_SEGMENTS`], and its queries.
pub(crate) const PAGED_ATTENTION: [Kernel; MOST_SEGMENTS] = [
    of_cache("paged_attention", ATTENTION, &[Params, Read, Write, Read, Read]),
    of_cache("paged_attention 2", ATTENTION, &[Params, Read, Write, Read, Read, Read]),
    of_cache("paged_attention 3", ATTENTION, &[Params, Read, Write, Read, Read, Read, Read]),
    of_cache("paged_attention 4", ATTENTION, &[Params, Read, Write, Read, Read, Read, Read, Read]),
];

/// The same with the queries where its output goes.
pub(crate) const ATTENTION_IN_PLACE: [Kernel; MOST_SEGMENTS] = [
    of_cache("attention", ATTENTION, &[Params, Read, Write, Read]),
    of_cache("attention 2", ATTENTION, &[Params, Read, Write, Read, Read]),
    of_cache("attention 3", ATTENTION, &[Params, Read, Write, Read, Read, Read]),
    of_cache("attention 4", ATTENTION, &[Params, Read, Write, Read, Read, Read, Read]),
];

/// What comes before it in `attention`.
pub(crate) const QK_NORM_ROPE_APPEND: [Kernel; MOST_SEGMENTS] = [
    of_cache("qk_norm_rope_append", QK, &[Params, Read, Read, Read, Read, Read, Write, Write]),
    of_cache("qk_norm_rope_append 2", QK, &[Params, Read, Read, Read, Read, Read, Write, Write, Write]),
    of_cache(
        "qk_norm_rope_append 3",
        QK,
        &[Params, Read, Read, Read, Read, Read, Write, Write, Write, Write],
    ),
    of_cache(
        "qk_norm_rope_append 4",
        QK,
        &[Params, Read, Read, Read, Read, Read, Write, Write, Write, Write, Write],
    ),
];

/// Storage buffers that the largest of them sees.
pub(crate) const QK_BINDINGS: usize = 6 + MOST_SEGMENTS;

const ROW: &str = include_str!("../shaders/sample/row.wgsl");
const BEST: &str = include_str!("../shaders/sample/best.wgsl");
const NOISE: &str = include_str!("../shaders/sample/noise.wgsl");
const SELECT: &str = include_str!("../shaders/sample/select.wgsl");
const SAMPLE_BINDINGS: &[Bind] = &[Params, Read, Write, Write, Read, Read, Write, Write];

pub(crate) const SAMPLE_SCAN: Kernel =
    of_values("sample_scan", &[ROW, BEST], include_str!("../shaders/sample/scan.wgsl"), SAMPLE_BINDINGS);
pub(crate) const SAMPLE_FILTER: Kernel = of_values(
    "sample_filter",
    &[ROW, BEST, NOISE, SELECT],
    include_str!("../shaders/sample/filter.wgsl"),
    SAMPLE_BINDINGS,
);
pub(crate) const SAMPLE_DRAW: Kernel = of_values(
    "sample_draw",
    &[ROW, BEST, NOISE],
    include_str!("../shaders/sample/draw.wgsl"),
    SAMPLE_BINDINGS,
);
pub(crate) const SAMPLE_FINISH: Kernel =
    of_values("sample_finish", &[ROW, BEST], include_str!("../shaders/sample/finish.wgsl"), SAMPLE_BINDINGS);
pub(crate) const LOGPROBS: Kernel = of_values(
    "logprobs",
    &[ROW, BEST, SELECT],
    include_str!("../shaders/sample/logprobs.wgsl"),
    SAMPLE_BINDINGS,
);
pub(crate) const SAMPLE_COUNT: Kernel =
    of_values("sample_count", &[], include_str!("../shaders/sample/count.wgsl"), &[Read, Write]);

/// Whether stored values are rounded to bf16.
pub(crate) fn round(round: bool) -> String {
    format!("const ROUND = {round};")
}

/// The dtype of a dense weight.
pub(crate) fn weight(dtype: DType) -> String {
    let number = match dtype {
        DType::Bf16 => 1,
        DType::F16 => 2,
        DType::F32 | DType::I32 | DType::U8 => 0,
    };
    format!("const WEIGHT = {number}u;")
}

/// The format of the KV cache.
pub(crate) fn kv(format: KvFormat) -> String {
    format!("const KV = {}u;", u32::from(format == KvFormat::Bf16))
}

/// What a linear layer adds to its products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epilogue {
    pub bias: bool,
    pub residual: bool,
    /// Whether one half of the columns is gated by the other.
    pub gated: bool,
}

/// Rows and columns of a linear layer that one workgroup makes, and what it does with its sums.
pub(crate) fn tile(rows: usize, cols: usize, epilogue: Epilogue) -> String {
    let Epilogue { bias, residual, gated } = epilogue;
    let parts = 1 + usize::from(gated);
    format!(
        "const ROWS = {rows}u; const COLS = {cols}u; const PARTS = {parts}u; const HAS_BIAS = {bias}; \
         const HAS_RESIDUAL = {residual};"
    )
}

/// Whether heads are normed.
pub(crate) fn norm(norm: bool) -> String {
    format!("const NORM = {norm};")
}

/// Whether rows are sampled that await masks.
pub(crate) fn masked(masked: bool) -> String {
    format!("const MASKED = {masked};")
}

/// The bindings of a cache in `num` segments from binding 3 on, the reads of it, and the read of
/// the queries: from the binding after those, or from where the output goes.
pub(crate) fn cache_read(num: usize, in_place: bool) -> String {
    let mut text = String::new();
    for at in 0..num {
        text += &format!("@group(0) @binding({}) var<storage, read> cache{at}: array<vec4<u32>>;\n", 3 + at);
    }
    if in_place {
        text += "fn query_at(i: u32) -> f32 { return bitcast<f32>(out[i]); }\n";
    } else {
        text += &format!("@group(0) @binding({}) var<storage, read> q: array<f32>;\n", 3 + num);
        text += "fn query_at(i: u32) -> f32 { return q[i]; }\n";
    }
    let words = "block % p.segment_blocks * 2u * p.num_kv_heads * p.block_len * head_words()";
    let reads = [
        ("cached", "vec4<u32>", format!("{words} / 4u + i"), "[at]"),
        ("cached_word", "u32", format!("{words} + i"), "[at / 4u][at % 4u]"),
    ];
    for (name, kind, at, index) in reads {
        text += &format!("fn {name}(block: u32, i: u32) -> {kind} {{\n    let at = {at};\n");
        for segment in 1..num {
            text += &format!(
                "    if (block / p.segment_blocks == {segment}u) {{ return cache{segment}{index}; }}\n"
            );
        }
        text += &format!("    return cache0{index};\n}}\n");
    }
    text
}

/// The bindings of a cache in `num` segments from binding 7 on, and the write of one of its words.
pub(crate) fn cache_write(num: usize) -> String {
    let mut text = String::new();
    for at in 0..num {
        text += &format!("@group(0) @binding({}) var<storage, read_write> cache{at}: array<u32>;\n", 7 + at);
    }
    text += "fn append(block: u32, i: u32, word: u32) {\n";
    text += "    let words = select(p.d / 2u, p.d, KV == 0u);\n";
    text += "    let at = block % p.segment_blocks * 2u * p.num_kv_heads * p.block_len * words + i;\n";
    text += "    switch block / p.segment_blocks {\n";
    for segment in 1..num {
        text += &format!("        case {segment}u: {{ cache{segment}[at] = word; }}\n");
    }
    text + "        default: { cache0[at] = word; }\n    }\n}\n"
}

#[cfg(test)]
mod tests;
