//! The one canonical weight format, in which readers deliver every public format and from which
//! kernels are chosen.
//!
//! A format is a key: it is `Copy`, equal formats are read by the same kernel, and nothing in it
//! depends on a tensor's extents. What belongs to one tensor lies beside it, in
//! [`CanonicalTensor`](super::CanonicalTensor).

use super::{ActQuant, Table};
use crate::DType;

/// As an extent of a block: the whole axis, however long (per-channel scales: `[1, WHOLE]`;
/// per-tensor: `[WHOLE, WHOLE]`).
pub const WHOLE: usize = usize::MAX;

/// How one element is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The value itself: f32, f16 or bf16.
    Dense(DType),
    /// Signed 8-bit integer, two's complement.
    I8,
    /// Unsigned 4-bit integer.
    U4,
    /// Unsigned 5-bit integer.
    U5,
    /// Unsigned 6-bit integer.
    U6,
    /// FP8: 4 exponent and 3 mantissa bits, no infinities (OCP 8-bit floating point, 2023).
    E4M3,
    /// 4-bit index into a published table of 16 values.
    Lut4(Table),
}

impl Code {
    /// Bits of one element.
    pub const fn bits(self) -> usize {
        match self {
            Self::Dense(dtype) => 8 * dtype.size(),
            Self::I8 | Self::E4M3 => 8,
            Self::U6 => 6,
            Self::U5 => 5,
            Self::U4 | Self::Lut4(_) => 4,
        }
    }

    const fn is_integer(self) -> bool {
        matches!(self, Self::I8 | Self::U4 | Self::U5 | Self::U6)
    }
}

/// How a block's scale is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleType {
    /// f32.
    F32,
    /// f16.
    F16,
    /// bf16.
    Bf16,
    /// A power of two, `2^(byte - 127)`; 255 is NaN (OCP Microscaling, 2023).
    E8M0,
    /// FP8 E4M3.
    E4M3,
    /// Signed 8-bit integer, under a second-level scale.
    I8,
    /// Unsigned 6-bit integer, under a second-level scale.
    U6,
}

impl ScaleType {
    /// Bits of one scale.
    pub const fn bits(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::E8M0 | Self::E4M3 | Self::I8 => 8,
            Self::U6 => 6,
        }
    }

    const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    const fn is_integer(self) -> bool {
        matches!(self, Self::I8 | Self::U6)
    }
}

/// Scales of blocks of a weight `[n, k]`. Blocks begin at row 0 and column 0; the last of an axis
/// may be cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scales {
    /// How each is stored.
    pub kind: ScaleType,
    /// Rows and columns that share one; [`WHOLE`] for an axis that is not divided.
    pub block: [usize; 2],
    /// Scales of these scales, by which each is multiplied.
    pub second: Option<SecondScales>,
}

/// Second-level scales: one for a block of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SecondScales {
    /// How each is stored: f32, f16 or bf16.
    pub kind: ScaleType,
    /// Rows and columns of elements that share one: multiples of the first level's, or [`WHOLE`].
    pub block: [usize; 2],
}

/// What the code of a block's elements is moved by; `s` is the block's scale, second level
/// included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offset {
    /// `x = s * code`.
    None,
    /// `x = s * (code - 2^(bits - 1))`: unsigned codes around the middle of their range. Nothing is
    /// stored.
    Midpoint,
    /// `x = s * (code - z)`: a zero point a block, an integer stored as the codes are.
    Int,
    /// `x = s * code + m`: a value a block, stored as the scales are; under second-level scales it
    /// is multiplied by a second-level offset of its own.
    Float,
}

/// How a weight `[n, k]` is coded. [`PUBLIC`](super::PUBLIC) writes the public formats in it.
///
/// An element is `x = s * (code - z)` or `x = s * code + m` with the code's value from its
/// [`Table`] or type, as [`Offset`] says. All of it is f32 arithmetic, each operation rounded: `s`
/// is the stored scale, or the product of the second-level scale and the stored one (and `m`
/// likewise); `code - z` is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightFormat {
    /// Element code.
    pub code: Code,
    /// Block scales; none for dense weights.
    pub scales: Option<Scales>,
    /// Offset kind.
    pub offset: Offset,
    /// Whether columns are stored in another order than the input has (GPTQ act-order): the tensor
    /// has the order.
    pub permuted: bool,
    /// Input quantisation of a linear layer.
    pub act: Option<ActQuant>,
}

impl WeightFormat {
    /// Unquantised weights.
    pub const fn dense(dtype: DType) -> Self {
        Self { code: Code::Dense(dtype), scales: None, offset: Offset::None, permuted: false, act: None }
    }

    /// Codes with one level of scales.
    pub const fn scaled(code: Code, kind: ScaleType, block: [usize; 2], offset: Offset) -> Self {
        let scales = Some(Scales { kind, block, second: None });
        Self { code, scales, offset, permuted: false, act: None }
    }

    /// Codes with scales whose scales are stored in `kind`, one for `block`.
    #[must_use]
    pub const fn under(mut self, kind: ScaleType, block: [usize; 2]) -> Self {
        if let Some(scales) = &mut self.scales {
            scales.second = Some(SecondScales { kind, block });
        }
        self
    }

    /// The same, run on a quantised input.
    #[must_use]
    pub const fn with_act(self, act: ActQuant) -> Self {
        Self { act: Some(act), ..self }
    }

    /// The same with columns in another order.
    #[must_use]
    pub const fn permuted(self) -> Self {
        Self { permuted: true, ..self }
    }

    /// The element type of a weight whose elements are stored as they are and whose input is not
    /// quantised: what a backend without kernels for codes can run.
    pub fn plain(&self) -> Option<DType> {
        match self.code {
            Code::Dense(dtype @ (DType::F32 | DType::F16 | DType::Bf16)) => {
                (*self == Self::dense(dtype)).then_some(dtype)
            }
            _ => None,
        }
    }

    /// The blocks of one level of scales, and the same format in groups of 128 columns.
    pub(super) fn in_groups_of_128(&self) -> Option<([usize; 2], Self)> {
        let scales = self.scales.filter(|scales| scales.second.is_none())?;
        let usual = Scales { block: [1, 128], ..scales };
        Some((scales.block, Self { scales: Some(usual), ..*self }))
    }

    /// Why there is no such format, if there is none.
    pub fn fault(&self) -> Option<&'static str> {
        if let Some(act) = self.act
            && act.is_empty_group()
        {
            return Some("inputs in groups of no columns");
        }
        let Some(Scales { kind, block, second }) = self.scales else {
            let dense = matches!(self.code, Code::Dense(DType::F32 | DType::F16 | DType::Bf16));
            let alone = self.offset == Offset::None && !self.permuted;
            return (!dense || !alone).then_some("codes without scales");
        };
        let offset = match self.offset {
            Offset::None => true,
            Offset::Midpoint => self.code.is_integer() && self.code != Code::I8,
            Offset::Int => self.code.is_integer(),
            Offset::Float => self.code.is_integer() && (kind.is_float() || kind.is_integer()),
        };
        let multiple = |(outer, inner): (usize, usize)| outer == WHOLE || outer.is_multiple_of(inner);
        match second {
            _ if matches!(self.code, Code::Dense(_)) => Some("elements that are no codes, with scales"),
            _ if block.contains(&0) => Some("blocks of nothing"),
            _ if !offset => Some("an offset that its codes or scales cannot have"),
            None if kind.is_integer() => Some("integer scales without a second level"),
            Some(_) if kind.is_float() || kind == ScaleType::E8M0 => Some("floating-point scales of scales"),
            Some(second) if !second.kind.is_float() => {
                Some("second-level scales that are no f32, f16 or bf16")
            }
            Some(second) if second.block.contains(&0) => Some("second-level blocks of nothing"),
            Some(second) if !second.block.into_iter().zip(block).all(multiple) => {
                Some("second-level blocks that cut blocks")
            }
            _ => None,
        }
    }
}
