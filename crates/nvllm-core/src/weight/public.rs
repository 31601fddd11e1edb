//! Public formats, written in the canonical one.
//!
//! | format | codes | scales | offsets | beside | source |
//! |---|---|---|---|---|---|
//! | NF4 | `Lut4(Nf4)` | f32, 1 x 64 | | | Dettmers et al. 2023, arXiv 2305.14314 |
//! | FP4 of bitsandbytes | `Lut4(BnbFp4)` | f32, 1 x 64 | | | bitsandbytes, `functional.py` |
//! | GPTQ | `U4` | f16, 1 x group | `Int` | column order if act-order | Frantar et al. 2022, arXiv 2210.17323 |
//! | AWQ | `U4` | f16, 1 x group | `Int` | | Lin et al. 2023, arXiv 2306.00978 |
//! | W4A16 | `U4` | bf16, 1 x group | `Midpoint`, or `Int` if asymmetric | column order if act-order | compressed-tensors, `pack_quantized` |
//! | W8A16 | `I8` | bf16, 1 x group | `Int` if asymmetric | | the same |
//! | INT8 a channel | `I8` | f32, 1 x all | | | Dettmers et al. 2022, arXiv 2208.07339 |
//! | FP8 in 128 x 128 | `E4M3` | f32, 128 x 128 | | inputs in FP8, groups of 128 | DeepSeek-AI 2024, arXiv 2412.19437 |
//! | FP8 a channel | `E4M3` | f32, 1 x all | | inputs in FP8 a token | Micikevicius et al. 2022, arXiv 2209.05433 |
//! | FP8 a tensor | `E4M3` | f32, all x all | | inputs in FP8: a token, or static | the same |
//! | `Q4_0`, `Q5_0` | `U4`, `U5` | f16, 1 x 32 | `Midpoint` | | ggml, `ggml-common.h`, `ggml-quants.c` |
//! | `Q4_1`, `Q5_1` | `U4`, `U5` | f16, 1 x 32 | `Float` | | the same |
//! | `Q8_0` | `I8` | f16, 1 x 32 | | | the same |
//! | `Q4_K`, `Q5_K` | `U4`, `U5` | `U6`, 1 x 32, under f16, 1 x 256 | `Float`: `-dmin` times 6 bits | | the same |
//! | `Q6_K` | `U6` | `I8`, 1 x 16, under f16, 1 x 256 | `Midpoint` | | the same |
//! | `IQ4_NL` | `Lut4(Iq4Nl)` | f16, 1 x 32 | | | the same |
//! | MXFP4 | `Lut4(E2M1)` | `E8M0`, 1 x 32 | | | OCP Microscaling Formats 1.0, 2023 |
//! | NVFP4 | `Lut4(E2M1)` | `E4M3`, 1 x 16, under f32, all x all | | | NVIDIA 2025, arXiv 2509.25149 |
//! | W8A8 | `I8` | f32, 1 x all | | inputs in int8: a token, or static | Xiao et al. 2022, arXiv 2211.10438 |
//!
//! NF4's double quantisation is decoded when a checkpoint is read, into the f32 scales above. Its
//! scales are 8-bit indices into a table of 256 values, moved by a mean, in runs of 256 scales
//! through the flattened tensor: such a run ends inside a row for most `k`, so that it is no block
//! of a matrix. That costs 0.37 bits an element and no accuracy.
//!
//! Deliberately absent: asymmetric inputs (zero points of activations), E5M2 weights, codes of less
//! than 4 bits.

use super::{ActQuant, Code, Offset, ScaleType, Table, WHOLE, WeightFormat};

/// Public formats by name, those that the module's table lists, with groups of 128 columns.
pub const PUBLIC: [(&str, WeightFormat); 27] = [
    ("nf4", scaled(Code::Lut4(Table::Nf4), ScaleType::F32, [1, 64])),
    ("fp4", scaled(Code::Lut4(Table::BnbFp4), ScaleType::F32, [1, 64])),
    ("w4a16", offset(Code::U4, ScaleType::Bf16, [1, 128], Offset::Midpoint)),
    ("w4a16 asymmetric", offset(Code::U4, ScaleType::Bf16, [1, 128], Offset::Int)),
    ("w8a16", scaled(Code::I8, ScaleType::Bf16, [1, 128])),
    ("w8a16 asymmetric", offset(Code::I8, ScaleType::Bf16, [1, 128], Offset::Int)),
    ("int8 channel", scaled(Code::I8, ScaleType::F32, [1, WHOLE])),
    ("gptq or awq", offset(Code::U4, ScaleType::F16, [1, 128], Offset::Int)),
    ("gptq act-order", offset(Code::U4, ScaleType::F16, [1, 128], Offset::Int).permuted()),
    ("gptq 8 bits", offset(Code::I8, ScaleType::F16, [1, 128], Offset::Int)),
    ("fp8 128x128", scaled(Code::E4M3, ScaleType::F32, [128, 128]).with_act(ActQuant::DynGroupE4M3(128))),
    ("fp8 channel", scaled(Code::E4M3, ScaleType::F32, [1, WHOLE]).with_act(ActQuant::DynTokenE4M3)),
    ("fp8 tensor", scaled(Code::E4M3, ScaleType::F32, [WHOLE, WHOLE]).with_act(ActQuant::DynTokenE4M3)),
    ("fp8 static", scaled(Code::E4M3, ScaleType::F32, [WHOLE, WHOLE]).with_act(ActQuant::StaticE4M3)),
    ("q4_0", offset(Code::U4, ScaleType::F16, [1, 32], Offset::Midpoint)),
    ("q4_1", offset(Code::U4, ScaleType::F16, [1, 32], Offset::Float)),
    ("q5_0", offset(Code::U5, ScaleType::F16, [1, 32], Offset::Midpoint)),
    ("q5_1", offset(Code::U5, ScaleType::F16, [1, 32], Offset::Float)),
    ("q8_0", scaled(Code::I8, ScaleType::F16, [1, 32])),
    ("q4_k", offset(Code::U4, ScaleType::U6, [1, 32], Offset::Float).under(ScaleType::F16, [1, 256])),
    ("q5_k", offset(Code::U5, ScaleType::U6, [1, 32], Offset::Float).under(ScaleType::F16, [1, 256])),
    ("q6_k", offset(Code::U6, ScaleType::I8, [1, 16], Offset::Midpoint).under(ScaleType::F16, [1, 256])),
    ("iq4_nl", scaled(Code::Lut4(Table::Iq4Nl), ScaleType::F16, [1, 32])),
    ("mxfp4", scaled(Code::Lut4(Table::E2M1), ScaleType::E8M0, [1, 32])),
    (
        "nvfp4",
        scaled(Code::Lut4(Table::E2M1), ScaleType::E4M3, [1, 16]).under(ScaleType::F32, [WHOLE, WHOLE]),
    ),
    ("w8a8", scaled(Code::I8, ScaleType::F32, [1, WHOLE]).with_act(ActQuant::DynTokenI8)),
    ("w8a8 static", scaled(Code::I8, ScaleType::F32, [1, WHOLE]).with_act(ActQuant::StaticI8)),
];

const fn scaled(code: Code, kind: ScaleType, block: [usize; 2]) -> WeightFormat {
    WeightFormat::scaled(code, kind, block, Offset::None)
}

const fn offset(code: Code, kind: ScaleType, block: [usize; 2], offset: Offset) -> WeightFormat {
    WeightFormat::scaled(code, kind, block, offset)
}
