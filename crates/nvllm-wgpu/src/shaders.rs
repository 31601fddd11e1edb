//! All shaders: their files, entry points and bindings.

use crate::kernel::Bind::{Params, Read, Write};
use crate::kernel::{Bind, Kernel};

const VALUES: &str = include_str!("../shaders/common/values.wgsl");
const HALVES: &str = include_str!("../shaders/common/halves.wgsl");
const WEIGHTS: &str = include_str!("../shaders/common/weights.wgsl");
const CHUNKS: &str = include_str!("../shaders/common/chunks.wgsl");
const CODED: &str = include_str!("../shaders/common/coded.wgsl");
const DIVISION: &str = include_str!("../shaders/common/division.wgsl");
const E4M3: &str = include_str!("../shaders/common/e4m3.wgsl");
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

const EMBED_SOURCE: &str = include_str!("../shaders/embed/general.wgsl");
pub(crate) const EMBED: Kernel =
    of_values("embed", &[VALUES, HALVES, WEIGHTS], EMBED_SOURCE, &[Params, Read, Read, Read, Write]);
pub(crate) const EMBED_CODED: Kernel =
    of_values("embed coded", &[VALUES, CODED], EMBED_SOURCE, &[Params, Read, Read, Read, Write, Read]);
const NORM_ORDER: &str = include_str!("../shaders/rms_norm/order.wgsl");
pub(crate) const RMS_NORM: Kernel = of_values(
    "rms_norm",
    &[VALUES, NORM_ORDER],
    include_str!("../shaders/rms_norm/general.wgsl"),
    &[Params, Read, Read, Write],
);
/// Of runs of whole fours.
pub(crate) const RMS_NORM_WIDE: Kernel = of_values(
    "rms_norm wide",
    &[VALUES, NORM_ORDER],
    include_str!("../shaders/rms_norm/wide.wgsl"),
    &[Params, Read, Read, Write],
);
const LINEAR_SOURCE: &str = include_str!("../shaders/linear/general.wgsl");
const LAYER: &str = include_str!("../shaders/linear/layer.wgsl");
const EXPERT_SOURCE: &str = include_str!("../shaders/expert_linear/general.wgsl");
const ELEMENTS: &str = include_str!("../shaders/linear/elements.wgsl");
const WIDE: &str = include_str!("../shaders/linear/wide.wgsl");
const ROWS: &str = include_str!("../shaders/linear/rows.wgsl");
const SUMS: &str = include_str!("../shaders/linear/sums.wgsl");

/// A linear layer by how its weight is read.
pub(crate) struct Readers {
    /// Dense rows of any length.
    dense: Kernel,
    /// Dense rows of whole chunks.
    dense_wide: Kernel,
    /// Codes of any rows.
    coded: Kernel,
    /// Codes of rows of whole chunks.
    coded_wide: Kernel,
}

impl Readers {
    /// The kernel for rows that are stored so, and whether it reads chunks.
    pub(crate) const fn of(&self, is_coded: bool, is_wide: bool) -> &Kernel {
        match (is_coded, is_wide) {
            (false, false) => &self.dense,
            (false, true) => &self.dense_wide,
            (true, false) => &self.coded,
            (true, true) => &self.coded_wide,
        }
    }
}

const LINEAR_DENSE: &[Bind] = &[Params, Read, Read, Read, Read, Read, Write];
const LINEAR_CODED: &[Bind] = &[Params, Read, Read, Read, Read, Read, Write, Read];
pub(crate) const LINEAR: Readers = Readers {
    dense: of_values(
        "linear",
        &[VALUES, HALVES, WEIGHTS, SILU, LAYER, SUMS, ELEMENTS],
        LINEAR_SOURCE,
        LINEAR_DENSE,
    ),
    dense_wide: of_values(
        "linear wide",
        &[VALUES, HALVES, CHUNKS, SILU, LAYER, SUMS, ROWS, WIDE],
        LINEAR_SOURCE,
        LINEAR_DENSE,
    ),
    coded: of_values(
        "linear coded",
        &[VALUES, CODED, SILU, LAYER, SUMS, ELEMENTS],
        LINEAR_SOURCE,
        LINEAR_CODED,
    ),
    coded_wide: of_values(
        "linear coded wide",
        &[VALUES, CODED, SILU, LAYER, SUMS, ROWS, WIDE],
        LINEAR_SOURCE,
        LINEAR_CODED,
    ),
};

const EPILOGUE: &str = include_str!("../shaders/linear/epilogue.wgsl");
const TILED: &str = include_str!("../shaders/linear/tiled.wgsl");

/// Linear layers over rows of whole chunks, for many rows: dense, coded.
pub(crate) const LINEAR_TILED: [Kernel; 2] = [
    of_values("linear tiled", &[VALUES, HALVES, CHUNKS, SILU, LAYER, EPILOGUE], TILED, LINEAR_DENSE),
    of_values("linear coded tiled", &[VALUES, CODED, SILU, LAYER, EPILOGUE], TILED, LINEAR_CODED),
];
/// Where the scales of a linear layer's weight are bound.
pub(crate) const LINEAR_SCALES: usize = LINEAR_DENSE.len();

const NORMED: &str = include_str!("../shaders/linear/normed.wgsl");

/// Linear layers over rows of whole chunks, with the norm of their one row inside: dense, coded.
pub(crate) const LINEAR_NORMED: [Kernel; 2] = [
    of_values(
        "linear normed",
        &[VALUES, HALVES, CHUNKS, SILU, LAYER, SUMS, NORM_ORDER, NORMED, WIDE],
        LINEAR_SOURCE,
        &[Params, Read, Read, Read, Read, Read, Write, Read],
    ),
    of_values(
        "linear coded normed",
        &[VALUES, CODED, SILU, LAYER, SUMS, NORM_ORDER, NORMED, WIDE],
        LINEAR_SOURCE,
        &[Params, Read, Read, Read, Read, Read, Write, Read, Read],
    ),
];

const EXPERT_DENSE: &[Bind] = &[Params, Read, Read, Read, Write];
const EXPERT_CODED: &[Bind] = &[Params, Read, Read, Read, Write, Read];
pub(crate) const EXPERT_LINEAR: Readers = Readers {
    dense: of_values(
        "expert_linear",
        &[VALUES, HALVES, WEIGHTS, SUMS, ELEMENTS],
        EXPERT_SOURCE,
        EXPERT_DENSE,
    ),
    dense_wide: of_values(
        "expert_linear wide",
        &[VALUES, HALVES, CHUNKS, SUMS, ROWS, WIDE],
        EXPERT_SOURCE,
        EXPERT_DENSE,
    ),
    coded: of_values("expert_linear coded", &[VALUES, CODED, SUMS, ELEMENTS], EXPERT_SOURCE, EXPERT_CODED),
    coded_wide: of_values(
        "expert_linear coded wide",
        &[VALUES, CODED, SUMS, ROWS, WIDE],
        EXPERT_SOURCE,
        EXPERT_CODED,
    ),
};
/// Where the scales of experts, or of a table of rows, are bound.
pub(crate) const TABLE_SCALES: usize = EXPERT_DENSE.len();

/// The input of a linear layer as its weight sees it.
pub(crate) const LINEAR_INPUT: Kernel = of_values(
    "linear_input",
    &[DIVISION, E4M3],
    include_str!("../shaders/linear/input.wgsl"),
    &[Params, Read, Read, Write],
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

const CACHE: &str = include_str!("../shaders/common/cache.wgsl");
const PART: &str = include_str!("../shaders/paged_attention/part.wgsl");
const CHUNK: &str = include_str!("../shaders/paged_attention/chunk.wgsl");
const CACHED: &str = include_str!("../shaders/paged_attention/cached.wgsl");
const APPEND: &str = include_str!("../shaders/common/append.wgsl");

const fn reads_cache(name: &'static str, bindings: &'static [Bind]) -> Kernel {
    of_values(name, &[VALUES, CACHE, PART, CHUNK, CACHED], ATTENTION, bindings)
}

/// Attention over a cache in so many segments, up to [`MOST_SEGMENTS`], and its queries.
pub(crate) const PAGED_ATTENTION: [Kernel; MOST_SEGMENTS] = [
    reads_cache("paged_attention", &[Params, Read, Write, Read, Read]),
    reads_cache("paged_attention 2", &[Params, Read, Write, Read, Read, Read]),
    reads_cache("paged_attention 3", &[Params, Read, Write, Read, Read, Read, Read]),
    reads_cache("paged_attention 4", &[Params, Read, Write, Read, Read, Read, Read, Read]),
];

/// The same with the queries where its output goes.
pub(crate) const ATTENTION_IN_PLACE: [Kernel; MOST_SEGMENTS] = [
    reads_cache("attention", &[Params, Read, Write, Read]),
    reads_cache("attention 2", &[Params, Read, Write, Read, Read]),
    reads_cache("attention 3", &[Params, Read, Write, Read, Read, Read]),
    reads_cache("attention 4", &[Params, Read, Write, Read, Read, Read, Read]),
];

const HEAD: &str = include_str!("../shaders/qk_norm_rope_append/head.wgsl");
const DECODE: &str = include_str!("../shaders/paged_attention/decode.wgsl");

const fn decodes(name: &'static str, bindings: &'static [Bind]) -> Kernel {
    const INCLUDES: &[&str] = &[VALUES, NORM_ORDER, DIVISION, E4M3, APPEND, HEAD, CACHE, PART, CHUNK, DECODE];
    of_values(name, INCLUDES, ATTENTION, bindings)
}

/// Attention of one token with its front inside.
pub(crate) const ATTENTION_DECODE: [Kernel; MOST_SEGMENTS] = [
    decodes("attention decode", &[Params, Read, Write, Write, Read, Read, Read, Read]),
    decodes("attention decode 2", &[Params, Read, Write, Write, Write, Read, Read, Read, Read]),
    decodes("attention decode 3", &[Params, Read, Write, Write, Write, Write, Read, Read, Read, Read]),
    decodes("attention decode 4", &[Params, Read, Write, Write, Write, Write, Write, Read, Read, Read, Read]),
];

/// Puts the chunks of sequences together.
pub(crate) const ATTENTION_FOLD: Kernel = of_values(
    "attention fold",
    &[VALUES, PART],
    include_str!("../shaders/paged_attention/fold.wgsl"),
    &[Params, Read, Read, Write],
);

const fn writes_cache(name: &'static str, source: &'static str, bindings: &'static [Bind]) -> Kernel {
    of_values(name, &[VALUES, DIVISION, E4M3, APPEND], source, bindings)
}

const KV_SOURCE: &str = include_str!("../shaders/kv_append/general.wgsl");

/// Keys and values on their way to a cache in so many segments.
pub(crate) const KV_APPEND: [Kernel; MOST_SEGMENTS] = [
    writes_cache("kv_append", KV_SOURCE, &[Params, Read, Read, Read, Write]),
    writes_cache("kv_append 2", KV_SOURCE, &[Params, Read, Read, Read, Write, Write]),
    writes_cache("kv_append 3", KV_SOURCE, &[Params, Read, Read, Read, Write, Write, Write]),
    writes_cache("kv_append 4", KV_SOURCE, &[Params, Read, Read, Read, Write, Write, Write, Write]),
];
/// Where a cache is bound there.
pub(crate) const KV_CACHE: usize = 4;

const QK_NAME: [&str; MOST_SEGMENTS] =
    ["qk_norm_rope_append", "qk_norm_rope_append 2", "qk_norm_rope_append 3", "qk_norm_rope_append 4"];

const fn front(at: usize, bindings: &'static [Bind]) -> Kernel {
    of_values(QK_NAME[at], &[VALUES, NORM_ORDER, DIVISION, E4M3, APPEND, HEAD], QK, bindings)
}

/// What comes before it in `attention`.
pub(crate) const QK_NORM_ROPE_APPEND: [Kernel; MOST_SEGMENTS] = [
    front(0, &[Params, Read, Read, Read, Read, Read, Write, Write]),
    front(1, &[Params, Read, Read, Read, Read, Read, Write, Write, Write]),
    front(2, &[Params, Read, Read, Read, Read, Read, Write, Write, Write, Write]),
    front(3, &[Params, Read, Read, Read, Read, Read, Write, Write, Write, Write, Write]),
];
/// Where a cache is bound there.
pub(crate) const QK_CACHE: usize = 7;

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

mod constants;
pub(crate) use constants::*;

#[cfg(test)]
mod tests;
