//! What a coded matrix is, as the kernels take it.

use crate::elem::Elem;

/// How an element is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Codes {
    /// 4 bits, the number itself: 0 to 15.
    U4,
    /// 4 bits, an index into these values.
    Table(&'static [f32; 16]),
    /// A signed byte.
    I8,
    /// FP8 E4M3; scales are 2^8 times those of the format. No code is NaN.
    E4m3,
}

/// The value of an element of code `c`, in a group of scale `s` and offset `o`, in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formula {
    /// `s c`.
    Symmetric,
    /// `s (c - o)`.
    ZeroPoint,
    /// `s (c - 8)`.
    Midpoint,
    /// `s c + o`, rounded once: as if each operation were, where `s c` is exact.
    Affine,
}

/// The form of a coded matrix; `generic/coded.rs` has the layout. Of 8-bit codes, `Affine` has f32
/// scales; FP8 has the formula `Symmetric` and f32 scales, a table the formula `Symmetric`;
/// `Midpoint` is for codes of 4 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CodedForm {
    pub codes: Codes,
    pub formula: Formula,
    /// The type of scales and offsets: f32 or f16.
    pub scale: Elem,
    /// Columns that share a scale: a multiple of [`CodedForm::block`], or at least `k`.
    pub group: usize,
    /// Columns.
    pub k: usize,
}

static AROUND_ZERO: [f32; 16] =
    [-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
static NUMBERS: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

impl CodedForm {
    /// Columns of a block of 16 bytes of codes.
    pub const fn block(&self) -> usize {
        match self.codes {
            Codes::U4 | Codes::Table(_) => 32,
            Codes::I8 | Codes::E4m3 => 16,
        }
    }

    /// Whether each group has an offset.
    pub const fn has_offsets(&self) -> bool {
        matches!(self.formula, Formula::ZeroPoint | Formula::Affine)
    }

    /// Bytes of a row's codes.
    pub const fn row_bytes(&self) -> usize {
        self.k.div_ceil(self.block()) * 16
    }

    /// Scales of a row.
    pub const fn groups(&self) -> usize {
        self.k.div_ceil(self.group)
    }

    /// The values of codes of 4 bits, where the formula has them in the middle less that.
    pub(crate) const fn table(&self) -> *const f32 {
        match self.codes {
            Codes::Table(values) => values.as_ptr(),
            Codes::U4 if matches!(self.formula, Formula::Midpoint) => AROUND_ZERO.as_ptr(),
            _ => NUMBERS.as_ptr(),
        }
    }
}
