//! Arrows that close a circle and stand for now. This list only gets shorter: the check fails on a
//! line that closes no circle any more.

/// From, to, and the names that go this way.
pub(super) const ALLOWED: &[(&str, &str, &str)] = &[
    ("crates/nvllm-core/src/plan.rs", "crates/nvllm-core/src/backend.rs", "Backend"),
    ("crates/nvllm-cpu-kernels/src/coded.rs", "crates/nvllm-cpu-kernels/src/lib.rs", "Elem"),
    (
        "crates/nvllm-cpu-kernels/src/generic/attention.rs",
        "crates/nvllm-cpu-kernels/src/lib.rs",
        "Elem, PageElem",
    ),
    ("crates/nvllm-cpu-kernels/src/generic/dot.rs", "crates/nvllm-cpu-kernels/src/generic/out.rs", "Out"),
    ("crates/nvllm-cpu-kernels/src/generic/dot.rs", "crates/nvllm-cpu-kernels/src/lib.rs", "Elem"),
    ("crates/nvllm-cpu-kernels/src/generic/mod.rs", "crates/nvllm-cpu-kernels/src/lib.rs", "Bf16, F16, F32"),
    (
        "crates/nvllm-cpu-kernels/src/generic/pages.rs",
        "crates/nvllm-cpu-kernels/src/lib.rs",
        "Bf16, E4m3, Elem, F32, I8, PageElem",
    ),
    ("crates/nvllm-cpu-kernels/src/generic/rows.rs", "crates/nvllm-cpu-kernels/src/lib.rs", "Elem"),
    (
        "crates/nvllm-cpu-kernels/src/lib.rs",
        "crates/nvllm-cpu-kernels/src/generic/coded.rs",
        "CodedDot, Decode",
    ),
    (
        "crates/nvllm-cpu-kernels/src/lib.rs",
        "crates/nvllm-cpu-kernels/src/generic/int8.rs",
        "Int8Dot, PAD, Quantize",
    ),
    ("crates/nvllm-cpu-kernels/src/lib.rs", "crates/nvllm-cpu-kernels/src/scalar.rs", "INT8"),
    ("crates/nvllm-cpu-kernels/src/lib.rs", "crates/nvllm-cpu-kernels/src/x86/avx512.rs", "PAIRS"),
    ("crates/nvllm-cpu-kernels/src/lib.rs", "crates/nvllm-cpu-kernels/src/x86/coded.rs", "PAIRS"),
    ("crates/nvllm-cpu-kernels/src/lib.rs", "crates/nvllm-cpu-kernels/src/x86/int8.rs", "PAIRS, VNNI"),
    ("crates/nvllm-cpu/src/backend/ops.rs", "crates/nvllm-cpu/src/backend/head.rs", "Head"),
    ("crates/nvllm-cpu/src/lib.rs", "crates/nvllm-cpu/src/attention.rs", "AttentionScratch, default"),
    ("crates/nvllm-cpu/src/lib.rs", "crates/nvllm-cpu/src/linear.rs", "LinearLists, default"),
    ("crates/nvllm-cpu/src/linear.rs", "crates/nvllm-cpu/src/rows.rs", "Rows, RowsMut"),
];
