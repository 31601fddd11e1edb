//! The formats that are made, and which of a format's values is the nearest.

use half::{bf16, f16};
use nvllm_core::DType;
use nvllm_core::weight::table::{E4M3_MAX, e4m3_from_f32, e4m3_to_f32};
use nvllm_core::weight::{ActQuant, Code, Offset, ScaleType, Table, WHOLE, WeightFormat};

/// What a dense tensor becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 8-bit integers with an f32 scale a channel, inputs in int8 a token (W8A8).
    Int8,
    /// The same weights under inputs as they are (W8A16): what an output head is made.
    Int8Weights,
    /// 4-bit integers around the middle of their range, with a 16-bit scale for so many columns
    /// (W4A16).
    Int4 {
        /// Columns that share a scale: one of [`GROUP_SIZES`](Self::GROUP_SIZES).
        group_size: usize,
    },
    /// FP8 E4M3 with an f32 scale a channel, inputs in FP8 a token.
    Fp8,
    /// 4-bit `NormalFloat` with an f32 scale for 64 columns.
    Nf4,
}

/// Columns that share a scale in bitsandbytes' NF4.
const NF4_BLOCK: usize = 64;

impl Format {
    /// Group sizes of [`Int4`](Self::Int4).
    pub const GROUP_SIZES: [usize; 3] = [32, 64, 128];

    /// The format that a tensor of `dtype` gets. 16-bit scales are of the tensor's own type, which
    /// spans its values; those of f32 tensors are bf16.
    pub fn canonical(self, dtype: DType) -> WeightFormat {
        let scaled = |code, kind, cols, offset| WeightFormat::scaled(code, kind, [1, cols], offset);
        match self {
            Self::Int8 => Self::Int8Weights.canonical(dtype).with_act(ActQuant::DynTokenI8),
            Self::Int8Weights => scaled(Code::I8, ScaleType::F32, WHOLE, Offset::None),
            Self::Int4 { group_size } => {
                let kind = if dtype == DType::F16 { ScaleType::F16 } else { ScaleType::Bf16 };
                scaled(Code::U4, kind, group_size, Offset::Midpoint)
            }
            Self::Fp8 => {
                scaled(Code::E4M3, ScaleType::F32, WHOLE, Offset::None).with_act(ActQuant::DynTokenE4M3)
            }
            Self::Nf4 => scaled(Code::Lut4(Table::Nf4), ScaleType::F32, NF4_BLOCK, Offset::None),
        }
    }

    /// The scale of a block of finite values, as `kind` stores it: 0 for a block of zeros, else one
    /// under which no value is farther than half a step from the nearest that the format has.
    pub(super) fn scale(self, kind: ScaleType, block: &[f32]) -> f32 {
        let most = block.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        match self {
            Self::Int8 | Self::Int8Weights => stored(kind, most, 127.0, 127.5),
            Self::Fp8 => stored(kind, most, E4M3_MAX, E4M3_MAX),
            Self::Nf4 => most,
            Self::Int4 { .. } => self.best_int4(kind, most, block),
        }
    }

    /// The scale of the least squared error: of codes from -8 to 7, the extreme value may lie on
    /// either end, or half a step beyond 7.
    fn best_int4(self, kind: ScaleType, most: f32, block: &[f32]) -> f32 {
        let positive = block.iter().fold(0.0, |most: f32, &x| most.max(x));
        let mut best = (f32::INFINITY, 0.0);
        for end in [7.5, 7.0, 8.0] {
            let scale = stored(kind, most, end, 8.5);
            if positive > 7.5 * scale {
                continue;
            }
            let error = block.iter().map(|&x| x - self.value(self.code(x, scale), scale));
            let error = error.fold(0.0, |sum, off| sum + off * off);
            if error < best.0 {
                best = (error, scale);
            }
        }
        best.1
    }

    /// The code, as it is stored, of the value nearest to `x` under `scale`.
    pub(super) fn code(self, x: f32, scale: f32) -> u8 {
        let x = if scale == 0.0 { 0.0 } else { x / scale };
        match self {
            Self::Int8 | Self::Int8Weights => nearest(x.clamp(-127.0, 127.0)) as i8 as u8,
            Self::Int4 { .. } => (nearest(x.clamp(-8.0, 7.0)) + 8.0) as u8,
            Self::Fp8 => e4m3_from_f32(x),
            Self::Nf4 => NF4_BOUNDS.iter().map(|&bound| u8::from(x > bound)).sum(),
        }
    }

    /// The value of a code.
    pub(super) fn value(self, code: u8, scale: f32) -> f32 {
        match self {
            Self::Int8 | Self::Int8Weights => scale * f32::from(code as i8),
            Self::Int4 { .. } => scale * (f32::from(code) - 8.0),
            Self::Fp8 => scale * e4m3_to_f32(code),
            Self::Nf4 => scale * Table::Nf4.values()[usize::from(code)],
        }
    }
}

/// The middles between neighbours of NF4's values.
static NF4_BOUNDS: [f32; 15] = {
    let (values, mut bounds, mut i) = (Table::Nf4.values(), [0.0; 15], 0);
    while i < bounds.len() {
        bounds[i] = f32::midpoint(values[i], values[i + 1]);
        i += 1;
    }
    bounds
};

/// The nearest integer, of two the even one, for magnitudes below 2^22: adding 1.5 * 2^23 leaves no
/// bit for a fraction. Unlike `round_ties_even` it is no call on processors of before SSE4.1, for
/// which this is compiled.
fn nearest(x: f32) -> f32 {
    const NO_FRACTION: f32 = 1.5 * 8_388_608.0;
    (x + NO_FRACTION) - NO_FRACTION
}

/// `most / end` as `kind` stores it: the nearest, or the next larger one if `most` would lie beyond
/// `reach` steps. 0 for blocks whose steps would be smaller than any that `kind` has.
fn stored(kind: ScaleType, most: f32, end: f32, reach: f32) -> f32 {
    let scale = round(kind, most / end);
    if scale == 0.0 || most <= reach * scale { scale } else { next_up(kind, scale) }
}

/// The nearest value of the type. f32 scales are values of bf16: readers that hold scales in the
/// activations' type then hold the same, and a step is hardly larger for it.
fn round(kind: ScaleType, x: f32) -> f32 {
    if kind == ScaleType::F16 { f16::from_f32(x).to_f32() } else { bf16::from_f32(x).to_f32() }
}

/// The next larger value of the type; `x` is one of it, and above 0.
fn next_up(kind: ScaleType, x: f32) -> f32 {
    if kind == ScaleType::F16 {
        f16::from_bits(f16::from_f32(x).to_bits() + 1).to_f32()
    } else {
        bf16::from_bits(bf16::from_f32(x).to_bits() + 1).to_f32()
    }
}

/// Writes a scale, which is one of `kind`, as it is stored.
pub(super) fn put_scale(kind: ScaleType, scale: f32, out: &mut [u8]) {
    match kind {
        ScaleType::F16 => out.copy_from_slice(&f16::from_f32(scale).to_le_bytes()),
        ScaleType::Bf16 => out.copy_from_slice(&bf16::from_f32(scale).to_le_bytes()),
        _ => out.copy_from_slice(&scale.to_le_bytes()),
    }
}
