//! Round to nearest: each row alone, so that rows of a tensor are what they are in any part of it.

use std::sync::Mutex;

use bytes::Bytes;
use nvllm_core::{CanonicalTensor, Code, Result};

use super::format::put_scale;
use super::rows::{RowShape, checked, dense_row, not_finite};
use super::{Format, parallel};

/// Rows that share the memory for their dense values.
const ROWS: usize = 16;

/// The dense tensor `tensor` in `format`, each element the nearest of its block's values.
///
/// Errors, calling the tensor `name`, if it is not dense or holds NaN or infinity.
pub fn quantize(name: &str, tensor: &CanonicalTensor, format: Format) -> Result<CanonicalTensor> {
    let (dtype, rows, cols) = (checked(name, tensor)?, tensor.num_rows(), tensor.num_cols());
    let shape = RowShape::new(name, dtype, cols, format)?;
    let (bits, kind) = (shape.coded.code.bits(), shape.scales.kind);
    let (in_bytes, scale_bytes) = (cols * dtype.size(), kind.bits() / 8);
    let (code_bytes, row_scales) = ((cols * bits).div_ceil(8), cols.div_ceil(shape.width) * scale_bytes);
    let (mut codes, mut scales) = (vec![0; rows * code_bytes], vec![0; rows * row_scales]);
    let bad_row = Mutex::new(None);
    let mut all: Vec<_> =
        codes.chunks_exact_mut(code_bytes.max(1)).zip(scales.chunks_exact_mut(row_scales.max(1))).collect();
    parallel::rows(&mut all, ROWS, cols * ROWS, |part, rows| {
        let mut x = vec![0.0; cols];
        for (row, (codes, scales)) in (part * ROWS..).zip(rows) {
            dense_row(dtype, &tensor.codes[row * in_bytes..(row + 1) * in_bytes], &mut x);
            if x.iter().any(|x| !x.is_finite()) {
                let mut bad_row = bad_row.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *bad_row = Some(bad_row.map_or(row, |other: usize| other.min(row)));
                return;
            }
            let blocks = x.chunks(shape.width).zip(scales.chunks_exact_mut(scale_bytes));
            for (at, (block, stored)) in blocks.enumerate() {
                let scale = format.scale(kind, block);
                put_scale(kind, scale, stored);
                put_codes(format, shape.coded.code, (block, scale), at * shape.width, codes);
            }
        }
    });
    if let Some(row) = bad_row.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(not_finite(name, row));
    }
    Ok(CanonicalTensor {
        format: shape.coded,
        scales: Bytes::from(scales),
        ..CanonicalTensor::dense(dtype, tensor.shape.clone(), Bytes::from(codes))
    })
}

/// The codes of a block that begins at column `first`; `codes` are those of its row.
fn put_codes(format: Format, code: Code, (block, scale): (&[f32], f32), first: usize, codes: &mut [u8]) {
    if code.bits() == 8 {
        for (out, &x) in codes[first..].iter_mut().zip(block) {
            *out = format.code(x, scale);
        }
        return;
    }
    // Blocks begin at even columns.
    for (out, pair) in codes[first / 2..].iter_mut().zip(block.chunks(2)) {
        let high = pair.get(1).map_or(0, |&x| format.code(x, scale));
        *out = format.code(pair[0], scale) | high << 4;
    }
}
