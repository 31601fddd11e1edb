//! The one canonical weight format: final from the start, so that quantisation adds readers and kernels, not types.

use crate::DType;

/// How one element is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Code {
    /// The value itself.
    Dense(DType),
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 4-bit integer, two a byte, low nibble first.
    U4,
    /// FP8: 4 exponent and 3 mantissa bits, no infinities (OCP 8-bit floating point, 2023).
    E4M3,
    /// 4-bit index into a table of 16 values (NF4, MXFP4's E2M1).
    Lut4([f32; 16]),
}

/// Element type of block scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleType {
    /// f32.
    F32,
    /// f16.
    F16,
    /// bf16.
    Bf16,
    /// A power of two, 8 exponent bits (OCP Microscaling, 2023).
    E8M0,
}

/// What is subtracted or added per block: `x = scale * (code - offset)` for `Int`, `scale * code + offset` for `Float`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// Nothing.
    None,
    /// An integer zero point.
    Int,
    /// A value in the scale's type (GGUF's `m`).
    Float,
}

/// Dynamic quantisation of a linear layer's input, one scale a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActQuant {
    /// To 8-bit integers.
    DynTokenI8,
    /// To FP8 E4M3.
    DynTokenE4M3,
}

/// How a weight `[n, k]` is coded. Holds NF4, GPTQ with act-order, AWQ, 128x128 FP8, GGUF blocks, MXFP4 and W8A8.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightFormat {
    /// Element code.
    pub code: Code,
    /// Rows and columns that share a scale; `[0, 0]` for dense weights.
    pub block: [usize; 2],
    /// Scale type.
    pub scale: ScaleType,
    /// Offset kind.
    pub offset: Offset,
    /// Column order: stored column `i` is logical column `k_perm[i]` (GPTQ act-order).
    pub k_perm: Option<Vec<u32>>,
    /// Input quantisation.
    pub act: Option<ActQuant>,
}

impl WeightFormat {
    /// Unquantised weights.
    pub const fn dense(dtype: DType) -> Self {
        Self {
            code: Code::Dense(dtype),
            block: [0, 0],
            scale: ScaleType::F32,
            offset: Offset::None,
            k_perm: None,
            act: None,
        }
    }

    /// Bits of one element, scales and offsets included.
    pub fn bits(&self) -> f64 {
        let code = match self.code {
            Code::Dense(dtype) => return (dtype.size() * 8) as f64,
            Code::I8 | Code::E4M3 => 8.0,
            Code::U4 | Code::Lut4(_) => 4.0,
        };
        let scale = match self.scale {
            ScaleType::F32 => 32.0,
            ScaleType::F16 | ScaleType::Bf16 => 16.0,
            ScaleType::E8M0 => 8.0,
        };
        let offset = match self.offset {
            Offset::None => 0.0,
            Offset::Int => code,
            Offset::Float => scale,
        };
        code + (scale + offset) / (self.block[0] * self.block[1]).max(1) as f64
    }
}
