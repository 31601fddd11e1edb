//! A tensor whose elements are rounded in an order of the caller's.

use bytes::Bytes;
use half::{bf16, f16};
use nvllm_core::weight::pack::pack;
use nvllm_core::weight::{Scales, WHOLE};
use nvllm_core::{CanonicalTensor, CoreError, DType, Result, WeightFormat};

use super::Format;
use super::format::put_scale;

/// What all rows have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowShape {
    pub format: Format,
    pub coded: WeightFormat,
    pub scales: Scales,
    /// Columns that share a scale.
    pub width: usize,
}

/// The rows, each with the dense values that it has or had.
pub(super) struct Rounded {
    pub rows: Vec<RoundedRow>,
    shape: RowShape,
    extents: Vec<usize>,
    dtype: DType,
}

/// One row.
pub(super) struct RoundedRow {
    pub dense: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl RowShape {
    /// Of rows of `cols` columns of `dtype` in `format`.
    ///
    /// Errors, calling the tensor `name`, if the format has no blocks.
    pub(super) fn new(name: &str, dtype: DType, cols: usize, format: Format) -> Result<Self> {
        let coded = format.canonical(dtype);
        let Some(scales) = coded.scales else {
            let problem = format!("has no blocks in {coded}");
            return Err(CoreError::BadTensor { name: name.into(), problem });
        };
        let width = if scales.block[1] == WHOLE { cols } else { scales.block[1] };
        Ok(Self { format, coded, scales, width: width.max(1) })
    }
}

/// The dtype of a dense tensor whose bytes are complete.
///
/// Errors, calling it `name`, if it is coded.
pub(super) fn checked(name: &str, tensor: &CanonicalTensor) -> Result<DType> {
    tensor.check(name)?;
    tensor.format.plain().ok_or_else(|| {
        let problem = format!("is in {}: what is coded is not coded again", tensor.format);
        CoreError::BadTensor { name: name.into(), problem }
    })
}

/// A row of elements as f32.
pub(super) fn dense_row(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::Bf16 => load(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        DType::F16 => load(bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
        DType::F32 | DType::I32 | DType::U8 => load(bytes, out, f32::from_le_bytes),
    }
}

fn load<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, &bytes)| *out = value(bytes));
}

/// The refusal of NaN and infinity.
pub(super) fn not_finite(name: &str, row: usize) -> CoreError {
    let problem = format!("holds NaN or infinity in row {row}: it cannot be quantised");
    CoreError::BadTensor { name: name.into(), problem }
}

impl Rounded {
    /// The rows of `tensor`, none of which is rounded yet.
    ///
    /// Errors as [`quantize`](super::quantize).
    pub(super) fn begin(name: &str, tensor: &CanonicalTensor, format: Format) -> Result<Self> {
        let (dtype, cols) = (checked(name, tensor)?, tensor.num_cols());
        let shape = RowShape::new(name, dtype, cols, format)?;
        let blocks = cols.div_ceil(shape.width);
        let row = |(at, bytes)| {
            let mut dense = vec![0.0; cols];
            dense_row(dtype, bytes, &mut dense);
            if dense.iter().any(|x: &f32| !x.is_finite()) {
                return Err(not_finite(name, at));
            }
            Ok(RoundedRow { dense, codes: vec![0; cols], scales: vec![0.0; blocks] })
        };
        let rows = tensor.codes.chunks_exact((cols * dtype.size()).max(1)).enumerate().map(row);
        Ok(Self { rows: rows.collect::<Result<_>>()?, shape, extents: tensor.shape.clone(), dtype })
    }

    pub(super) const fn shape(&self) -> RowShape {
        self.shape
    }

    /// The tensor, once all elements are rounded.
    pub(super) fn finish(self) -> CanonicalTensor {
        let (cols, kind) = (self.rows.first().map_or(1, |row| row.dense.len()), self.shape.scales.kind);
        let codes = self.rows.iter().flat_map(|row| &row.codes).map(|&code| u32::from(code));
        let codes = pack(codes, self.shape.coded.code.bits(), cols);
        let size = kind.bits() / 8;
        let mut scales = vec![0; size * self.rows.iter().map(|row| row.scales.len()).sum::<usize>()];
        let all = self.rows.iter().flat_map(|row| &row.scales);
        scales.chunks_exact_mut(size).zip(all).for_each(|(out, &scale)| put_scale(kind, scale, out));
        CanonicalTensor {
            format: self.shape.coded,
            scales: Bytes::from(scales),
            ..CanonicalTensor::dense(self.dtype, self.extents, codes)
        }
    }
}

impl RoundedRow {
    /// Gives block `block` the scale that suits `values`.
    pub(super) fn set_scale(&mut self, shape: RowShape, block: usize, values: &[f32]) {
        self.scales[block] = shape.format.scale(shape.scales.kind, values);
    }

    /// Gives each block the scale that suits its dense values.
    pub(super) fn set_scales(&mut self, shape: RowShape) {
        for (scale, block) in self.scales.iter_mut().zip(self.dense.chunks(shape.width)) {
            *scale = shape.format.scale(shape.scales.kind, block);
        }
    }

    /// Rounds `x` in column `col`, and returns the value that it has now.
    pub(super) fn round(&mut self, shape: RowShape, col: usize, x: f32) -> f32 {
        let scale = self.scales[col / shape.width];
        self.codes[col] = shape.format.code(x, scale);
        shape.format.value(self.codes[col], scale)
    }
}
