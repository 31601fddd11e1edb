//! Round to nearest: each row alone, so that rows of a tensor are what they are in any part of it.

use bytes::Bytes;
use half::{bf16, f16};
use nvllm_core::weight::{Code, Scales, WHOLE};
use nvllm_core::{CanonicalTensor, CoreError, DType, Result};

use super::Format;
use super::format::put_scale;

/// The dense tensor `tensor` in `format`, each element the nearest of its block's values.
///
/// Errors, calling the tensor `name`, if it is not dense or holds NaN or infinity.
pub fn quantize(name: &str, tensor: &CanonicalTensor, format: Format) -> Result<CanonicalTensor> {
    let bad = |problem: String| CoreError::BadTensor { name: name.into(), problem };
    let Some(dtype) = tensor.format.plain() else {
        return Err(bad(format!("is in {}: what is coded is not coded again", tensor.format)));
    };
    tensor.check(name)?;
    let coded = format.canonical(dtype);
    let Some(Scales { kind, block: [_, width], .. }) = coded.scales else {
        return Err(bad(format!("has no blocks in {coded}")));
    };
    let (rows, cols) = (tensor.num_rows(), tensor.num_cols());
    let width = if width == WHOLE { cols } else { width }.max(1);
    let (in_bytes, scale_bytes) = (cols * dtype.size(), kind.bits() / 8);
    let (code_bytes, row_scales) =
        ((cols * coded.code.bits()).div_ceil(8), cols.div_ceil(width) * scale_bytes);
    let (mut codes, mut scales) = (vec![0; rows * code_bytes], vec![0; rows * row_scales]);
    let per_thread = rows.div_ceil(threads(rows * cols)).max(1);
    let part = |first: usize, codes: &mut [u8], scales: &mut [u8]| {
        let mut x = vec![0.0; cols];
        let rows = codes.chunks_exact_mut(code_bytes.max(1)).zip(scales.chunks_exact_mut(row_scales.max(1)));
        for (row, (codes, scales)) in (first..).zip(rows) {
            dense_row(dtype, &tensor.codes[row * in_bytes..(row + 1) * in_bytes], &mut x);
            if x.iter().any(|x| !x.is_finite()) {
                return Err(row);
            }
            let blocks = x.chunks(width).zip(scales.chunks_exact_mut(scale_bytes));
            for (at, (block, stored)) in blocks.enumerate() {
                let scale = format.scale(kind, block);
                put_scale(kind, scale, stored);
                put_codes(format, coded.code, (block, scale), at * width, codes);
            }
        }
        Ok(())
    };
    let mut not_finite = None;
    std::thread::scope(|scope| {
        let parts = codes
            .chunks_mut((per_thread * code_bytes).max(1))
            .zip(scales.chunks_mut((per_thread * row_scales).max(1)))
            .enumerate();
        let mut running = Vec::new();
        for (at, (codes, scales)) in parts {
            let (first, part) = (at * per_thread, &part);
            running.push(scope.spawn(move || part(first, codes, scales)));
        }
        for thread in running {
            match thread.join() {
                Ok(done) => not_finite = not_finite.or(done.err()),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    if let Some(row) = not_finite {
        return Err(bad(format!("holds NaN or infinity in row {row}: it cannot be quantised")));
    }
    Ok(CanonicalTensor {
        format: coded,
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

/// Threads that round so many elements: fewer take less time than a thread takes to start.
fn threads(elements: usize) -> usize {
    const WORTH_A_THREAD: usize = 1 << 16;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (elements / WORTH_A_THREAD).clamp(1, processors)
}
