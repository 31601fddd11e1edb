//! A tensor in canonical form, and the values of its elements.
//!
//! A tensor `[.., k]` is taken as a matrix of rows of `k` columns. Its bytes:
//!
//! | bytes | what | order |
//! |---|---|---|
//! | `codes` | one code an element | rows, each padded to a whole byte |
//! | `scales` | one a block | rows of blocks, each padded to a whole byte |
//! | `offsets` | one a block: `Int` as wide as a code, `Float` as the scales | as `scales` |
//! | `second_scales` | one a second-level block | as `scales` |
//! | `second_offsets` | one a second-level block, of `Float` offsets | as `scales` |
//! | `k_perm` | the logical column of each stored one, u32 | columns |
//! | `act_scale` | the static scale of the input, f32 | |
//!
//! Items of 8 bits and more are little-endian. Items of 4, 5 and 6 bits fill a row's bytes from the
//! lowest bit up: item `i` of `b` bits lies in bits `i * b..(i + 1) * b`, where bit `j` is bit
//! `j % 8` of byte `j / 8`. So of two 4-bit codes the first is in the low nibble. Blocks and the
//! row's padding are of stored columns, whatever `k_perm` makes of them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::table::{e4m3_to_f32, e8m0_to_f32};
use super::{Code, Offset, ScaleType, TensorInfo, WHOLE, WeightFormat};
use crate::{CoreError, DType, Result};

/// A tensor in canonical form: codes, and for quantised formats what belongs to them.
///
/// Dense tensors hold their elements row-major in `codes`. The bytes may lie in a mapped file:
/// cloning is free and holds the mapping alive.
#[derive(Clone, Debug)]
pub struct CanonicalTensor {
    /// How to read the rest.
    pub format: WeightFormat,
    /// Extents, outermost first; the last is the reduction length of a linear layer.
    pub shape: Vec<usize>,
    /// Packed elements.
    pub codes: Bytes,
    /// One scale a block; empty for dense tensors.
    pub scales: Bytes,
    /// One offset a block; empty where the format stores none.
    pub offsets: Bytes,
    /// One scale a second-level block; empty where the format has no second level.
    pub second_scales: Bytes,
    /// One offset a second-level block; empty where the format has none.
    pub second_offsets: Bytes,
    /// Column order: stored column `i` is logical column `k_perm[i]`.
    pub k_perm: Option<Arc<[u32]>>,
    /// The input's scale where its quantisation is static.
    pub act_scale: Option<f32>,
}

impl CanonicalTensor {
    /// A dense tensor over `codes`.
    pub fn dense(dtype: DType, shape: impl Into<Vec<usize>>, codes: Bytes) -> Self {
        Self {
            format: WeightFormat::dense(dtype),
            shape: shape.into(),
            codes,
            scales: Bytes::new(),
            offsets: Bytes::new(),
            second_scales: Bytes::new(),
            second_offsets: Bytes::new(),
            k_perm: None,
            act_scale: None,
        }
    }

    /// Columns of one row; a vector has one column.
    pub fn num_cols(&self) -> usize {
        super::tensor_info::extents(&self.shape)[1]
    }

    /// Rows: every extent but the last, multiplied; a vector has one row an element.
    pub fn num_rows(&self) -> usize {
        super::tensor_info::extents(&self.shape)[0]
    }

    /// What is known of it apart from its bytes.
    pub fn info(&self) -> TensorInfo {
        TensorInfo { shape: self.shape.clone(), format: self.format }
    }

    /// Its byte strings, in the order of the module's table.
    pub fn parts(&self) -> [&Bytes; 5] {
        [&self.codes, &self.scales, &self.offsets, &self.second_scales, &self.second_offsets]
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let perm = self.k_perm.as_ref().map_or(0, |perm| size_of_val(&**perm));
        self.parts().iter().map(|part| part.len()).sum::<usize>()
            + perm
            + self.act_scale.map_or(0, |scale| size_of_val(&scale))
    }

    /// Errors, calling the tensor `name`, unless its bytes are as many as its format and shape take
    /// and its permutation is one.
    pub fn check(&self, name: &str) -> Result<()> {
        let bad = |problem: String| Err(CoreError::BadTensor { name: name.into(), problem });
        if let Some(fault) = self.format.fault() {
            return bad(format!("has a format that cannot be: {fault}"));
        }
        let expected = self.info().sizes();
        let held = self.parts().map(Bytes::len);
        let names = ["codes", "scales", "offsets", "second-level scales", "second-level offsets"];
        for ((what, held), expected) in names.into_iter().zip(held).zip(expected) {
            if held != expected {
                let (shape, format) = (&self.shape, self.format);
                return bad(format!(
                    "has {held} bytes of {what}; the shape {shape:?} in {format} takes {expected}"
                ));
            }
        }
        if self.k_perm.is_some() != self.format.permuted {
            return bad("has a column order where its format has none, or none where it has one".into());
        }
        if let Some(perm) = &self.k_perm {
            let mut sorted = perm.to_vec();
            sorted.sort_unstable();
            if !sorted.iter().map(|&i| i as usize).eq(0..self.num_cols()) {
                return bad(format!("has a column order that is none of {} columns", self.num_cols()));
            }
        }
        let needs = self.format.act.is_some_and(super::ActQuant::is_static);
        match self.act_scale {
            Some(scale) if needs && (!scale.is_finite() || scale <= 0.0) => {
                bad(format!("has an input scale of {scale}; a finite number above 0 is needed"))
            }
            scale if scale.is_some() != needs => {
                bad("has an input scale where its format has none, or none where it has one".into())
            }
            _ => Ok(()),
        }
    }

    /// The tensor of `rows` alone, as a matrix: the same bytes, cut. Errors, calling the tensor
    /// `name`, if `rows` begin inside a block of rows, whose rest would have no scale of its own.
    pub fn slice_rows(&self, name: &str, rows: Range<usize>) -> Result<Self> {
        let (units, row_bytes) = (self.info().rows_of_blocks(), self.info().row_bytes());
        // A block of all rows is one block of any of them.
        let inside = units.iter().any(|&unit| unit != WHOLE && !rows.start.is_multiple_of(unit));
        if inside || rows.start > rows.end || rows.end > self.num_rows() {
            let (total, format) = (self.num_rows(), self.format);
            let problem =
                format!("in {format} cannot be cut at rows {}..{} of {total}", rows.start, rows.end);
            return Err(CoreError::BadTensor { name: name.into(), problem });
        }
        let [codes, scales, offsets, second_scales, second_offsets] = std::array::from_fn(|i| {
            let bytes = self.parts()[i];
            bytes.slice(rows.start / units[i] * row_bytes[i]..rows.end.div_ceil(units[i]) * row_bytes[i])
        });
        let shape = vec![rows.len(), self.num_cols()];
        Ok(Self { shape, codes, scales, offsets, second_scales, second_offsets, ..self.clone() })
    }

    /// Row `row` as f32 into `out` (`num_cols` long), in logical column order: the primitive that
    /// every format has. The tensor has passed [`check`](Self::check), and `row` is one of its
    /// rows.
    pub(super) fn dequant_row(&self, row: usize, out: &mut [f32]) {
        if let Code::Dense(dtype) = self.format.code {
            let start = row * self.num_cols();
            out.iter_mut().enumerate().for_each(|(i, x)| *x = dtype.read(&self.codes, start + i));
            return;
        }
        let mut block = (usize::MAX, 0.0, 0.0);
        for col in 0..out.len() {
            let at = self.format.scales.map_or(0, |scales| col / scales.block[1]);
            if block.0 != at {
                block = (at, self.scale(row, col), self.offset(row, col));
            }
            let (_, scale, offset) = block;
            let code = self.code(row, col);
            let x = match self.format.offset {
                Offset::None => scale * code,
                Offset::Midpoint | Offset::Int => scale * (code - offset),
                Offset::Float => scale * code + offset,
            };
            out[self.k_perm.as_ref().map_or(col, |perm| perm[col] as usize)] = x;
        }
    }

    /// The value of a stored element's code.
    fn code(&self, row: usize, col: usize) -> f32 {
        let bits = self.format.code.bits();
        let raw = item(&self.codes, bits, self.num_cols(), [row, col]);
        match self.format.code {
            Code::I8 => f32::from(raw as u8 as i8),
            Code::E4M3 => e4m3_to_f32(raw as u8),
            Code::Lut4(table) => table.values()[raw as usize],
            Code::U4 | Code::U5 | Code::U6 => raw as f32,
            Code::Dense(dtype) => dtype.read(&self.codes, row * self.num_cols() + col),
        }
    }

    /// The scale of a stored element's block, second level included; 1 of a dense tensor. The
    /// tensor has passed [`check`](Self::check), and there is such a row and column.
    pub fn scale(&self, row: usize, col: usize) -> f32 {
        let Some(scales) = self.format.scales else { return 1.0 };
        let first = self.block_value(&self.scales, scales.kind, scales.block, [row, col]);
        match scales.second {
            Some(second) => {
                self.block_value(&self.second_scales, second.kind, second.block, [row, col]) * first
            }
            None => first,
        }
    }

    /// The offset of a stored element's block, second level included, on the same conditions: a
    /// zero point or a value, as the format says; 0 if it has none.
    pub fn offset(&self, row: usize, col: usize) -> f32 {
        let Some(scales) = self.format.scales else { return 0.0 };
        let at = [row, col];
        match (self.format.offset, scales.second) {
            (Offset::None, _) => 0.0,
            (Offset::Midpoint, _) => f32::from(1_u16 << (self.format.code.bits() - 1)),
            (Offset::Int, _) => {
                let (cols, at) = grid(scales.block, self.num_cols(), at);
                let raw = item(&self.offsets, self.format.code.bits(), cols, at);
                if self.format.code == Code::I8 { f32::from(raw as u8 as i8) } else { raw as f32 }
            }
            (Offset::Float, None) => self.block_value(&self.offsets, scales.kind, scales.block, at),
            (Offset::Float, Some(second)) => {
                self.block_value(&self.second_offsets, second.kind, second.block, at)
                    * self.block_value(&self.offsets, scales.kind, scales.block, at)
            }
        }
    }

    /// What `bytes`, one item of `kind` a block, hold for the block of a stored element.
    fn block_value(&self, bytes: &[u8], kind: ScaleType, block: [usize; 2], at: [usize; 2]) -> f32 {
        let (cols, at) = grid(block, self.num_cols(), at);
        kind.value(item(bytes, kind.bits(), cols, at))
    }
}

impl ScaleType {
    /// The value of an item.
    pub(super) fn value(self, raw: u32) -> f32 {
        match self {
            Self::F32 => f32::from_bits(raw),
            Self::F16 => half::f16::from_bits(raw as u16).to_f32(),
            Self::Bf16 => half::bf16::from_bits(raw as u16).to_f32(),
            Self::E8M0 => e8m0_to_f32(raw as u8),
            Self::E4M3 => e4m3_to_f32(raw as u8),
            Self::I8 => f32::from(raw as u8 as i8),
            Self::U6 => raw as f32,
        }
    }
}

/// Blocks in a row of blocks, and the block of an element.
fn grid(block: [usize; 2], num_cols: usize, [row, col]: [usize; 2]) -> (usize, [usize; 2]) {
    (num_cols.div_ceil(block[1]), [row / block[0], col / block[1]])
}

/// Item `[row, col]` of rows of `cols` items of `bits` bits (32 at most), each row padded to a
/// whole byte.
fn item(bytes: &[u8], bits: usize, cols: usize, [row, col]: [usize; 2]) -> u32 {
    let row = &bytes[row * (cols * bits).div_ceil(8)..];
    let (first, shift) = (col * bits / 8, col * bits % 8);
    let read = row[first..].iter().take((shift + bits).div_ceil(8)).rev();
    let word = read.fold(0_u64, |word, &byte| word << 8 | u64::from(byte));
    (word >> shift & ((1 << bits) - 1)) as u32
}
