//! From canonical coded tensors to the kernels' layout: which formats there are kernels for, what
//! they take in memory, and how a tensor becomes one.
//!
//! | format | codes | scales |
//! |---|---|---|
//! | codes of 4 bits, tables of 16 values | halves of bytes, 32 columns a block | f16 as stored, else f32 |
//! | 5 and 6 bits | signed bytes | f32 |
//! | 8 bits, FP8 | as stored | f16 as stored, else f32; FP8 f32 |
//!
//! What is stored as a kernel reads it stays where the checkpoint is mapped.

use bytes::Bytes;
use half::f16;
use nvllm_core::weight::{ActQuant, Code, Offset, ScaleType, Scales};
use nvllm_core::{CanonicalTensor, CoreError, Reason, Result, TensorInfo};
use nvllm_cpu_kernels::MAX_INT8_K;

use crate::zeroed::zeroed_in_huge_pages;
use crate::{Coded, CodedForm, Codes, Elem, Formula, Pool};

/// What FP8 codes are too small by as kernels read them.
const FP8_SCALE: f32 = 256.0;

/// The kernels' form of a coded tensor.
///
/// Errors if there are none for it.
pub(super) fn form(info: &TensorInfo) -> Result<CodedForm, Reason> {
    let no = |what: &str| Err(Reason(format!("its format is {}; {what}", info.format)));
    let Some(Scales { kind, block, second }) = info.format.scales else { return no("codes have no scales") };
    let codes = match info.format.code {
        Code::U4 => Codes::U4,
        Code::Lut4(table) => Codes::Table(table.values()),
        Code::U5 | Code::U6 | Code::I8 => Codes::I8,
        Code::E4M3 => Codes::E4m3,
        Code::Dense(_) => return no("its elements are no codes"),
    };
    let formula = match info.format.offset {
        Offset::Midpoint if codes == Codes::U4 => Formula::Midpoint,
        Offset::None | Offset::Midpoint => Formula::Symmetric,
        Offset::Int => Formula::ZeroPoint,
        Offset::Float => Formula::Affine,
    };
    if formula == Formula::Affine && kind == ScaleType::F32 {
        // The kernels round once, which is right where the product of scale and code is exact.
        return no("f32 scales are run without offsets, and with zero points");
    }
    let k = info.shape.last().copied().unwrap_or(1);
    let stored = kind == ScaleType::F16 && second.is_none() && block[0] == 1;
    let takes_f16 = codes != Codes::E4m3 && (codes, formula) != (Codes::I8, Formula::Affine);
    let scale = if stored && takes_f16 { Elem::F16 } else { Elem::F32 };
    let form = CodedForm { codes, formula, scale, group: block[1], k };
    if info.shape.len() < 2 || k == 0 {
        return no("matrices are run");
    }
    if form.group < k && !form.group.is_multiple_of(form.block()) {
        return no(&format!("groups of {} columns and multiples of it are run", form.block()));
    }
    Ok(form)
}

/// Whether a linear layer of it is one of integers.
pub(super) fn is_int8(info: &TensorInfo, form: &CodedForm) -> bool {
    info.format.act == Some(ActQuant::DynTokenI8)
        && form.codes == Codes::I8
        && form.formula == Formula::Symmetric
        && form.scale == Elem::F32
        && form.group >= form.k
        && form.k <= MAX_INT8_K
}

/// Bytes that [`load`] will hold.
pub(super) fn bytes_for(info: &TensorInfo, form: &CodedForm) -> usize {
    let num_rows = info.shape[..info.shape.len() - 1].iter().product::<usize>();
    let groups = form.groups() * form.scale.size() * if form.has_offsets() { 2 } else { 1 };
    let sums = if is_int8(info, form) { size_of::<i32>() } else { 0 };
    num_rows * (form.row_bytes() + groups + sums)
}

/// A tensor in the kernels' layout.
///
/// Errors if an FP8 code is NaN, which no kernel takes.
pub(super) fn load(pool: &Pool, name: &str, tensor: &CanonicalTensor, form: CodedForm) -> Result<Coded> {
    tensor.check(name)?;
    let parts =
        [codes(pool, name, tensor, &form)?, scales(pool, tensor, &form)?, offsets(pool, tensor, &form)?];
    let coded = Coded::new(form, tensor.num_rows(), parts);
    let coded = if is_int8(&tensor.info(), &form) { coded.and_then(Coded::with_int8_inputs) } else { coded };
    coded.map_err(|e| CoreError::BadTensor { name: name.into(), problem: e.to_string() })
}

fn codes(pool: &Pool, name: &str, tensor: &CanonicalTensor, form: &CodedForm) -> Result<Bytes> {
    let bits = tensor.format.code.bits();
    let stored = (form.k * bits).div_ceil(8);
    if form.codes == Codes::E4m3 && tensor.codes.iter().any(|code| code & 0x7f == 0x7f) {
        let problem = "holds a weight that is NaN; the checkpoint is damaged".into();
        return Err(CoreError::BadTensor { name: name.into(), problem });
    }
    if bits == 8 && stored == form.row_bytes() {
        return Ok(tensor.codes.clone());
    }
    // Of unsigned codes around their middle.
    let middle = if tensor.format.offset == Offset::Midpoint { 1 << (bits - 1) } else { 0 };
    let mut out = zeroed_in_huge_pages(tensor.num_rows() * form.row_bytes(), "weights")?;
    pool.for_rows(&mut out, form.row_bytes(), |row, out| {
        let row = &tensor.codes[row * stored..][..stored];
        match bits {
            4 => halves(row, out),
            5 => bytes_of::<5>(row, middle, &mut out[..form.k]),
            6 => bytes_of::<6>(row, middle, &mut out[..form.k]),
            _ => out[..stored].copy_from_slice(row),
        }
    });
    Ok(out.into())
}

/// Codes of 4 bits in order, the first in the low half of a byte, as the kernels have them: column
/// `i` beside column `i + 16`.
fn halves(row: &[u8], out: &mut [u8]) {
    let (whole, rest) = row.as_chunks::<16>();
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    for (block, out) in whole.iter().chain([&last]).zip(out.as_chunks_mut::<16>().0) {
        for i in 0..8 {
            let (low, high) = (block[i], block[i + 8]);
            out[2 * i] = low & 15 | high << 4;
            out[2 * i + 1] = low >> 4 | high & 0xf0;
        }
    }
}

/// Codes of `BITS` bits less `middle`, each in a byte: eight fill as many bytes as one has bits.
fn bytes_of<const BITS: usize>(row: &[u8], middle: u8, out: &mut [u8]) {
    for (codes, out) in row.chunks(BITS).zip(out.chunks_mut(8)) {
        let mut word = [0; 8];
        word[..codes.len()].copy_from_slice(codes);
        let word = u64::from_le_bytes(word);
        for (i, out) in out.iter_mut().enumerate() {
            *out = ((word >> (i * BITS)) as u8 & ((1 << BITS) - 1)).wrapping_sub(middle);
        }
    }
}

fn scales(pool: &Pool, tensor: &CanonicalTensor, form: &CodedForm) -> Result<Bytes> {
    let Some(Scales { kind, block, second }) = tensor.format.scales else { return Ok(Bytes::new()) };
    let stored = kind == ScaleType::F32 && second.is_none() && block[0] == 1 && form.codes != Codes::E4m3;
    if stored || form.scale == Elem::F16 {
        return Ok(tensor.scales.clone());
    }
    let factor = if form.codes == Codes::E4m3 { FP8_SCALE } else { 1.0 };
    numbers(pool, tensor, form, |row, out| {
        tensor.block_scales(row, out);
        out.iter_mut().for_each(|scale| *scale *= factor);
    })
}

fn offsets(pool: &Pool, tensor: &CanonicalTensor, form: &CodedForm) -> Result<Bytes> {
    match form.formula {
        Formula::Symmetric | Formula::Midpoint => Ok(Bytes::new()),
        Formula::Affine if form.scale == Elem::F16 => Ok(tensor.offsets.clone()),
        _ => numbers(pool, tensor, form, |row, out| tensor.block_offsets(row, out)),
    }
}

/// A number for each group of each row, in the type of the form's scales.
fn numbers(
    pool: &Pool,
    tensor: &CanonicalTensor,
    form: &CodedForm,
    values: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<Bytes> {
    let (groups, size) = (form.groups(), form.scale.size());
    let mut out = zeroed_in_huge_pages(tensor.num_rows() * groups * size, "weights")?;
    pool.for_rows(&mut out, groups * size, |row, out| {
        let mut row_values = vec![0.0_f32; groups];
        values(row, &mut row_values);
        for (value, out) in row_values.into_iter().zip(out.chunks_exact_mut(size)) {
            match form.scale {
                Elem::F16 => out.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                _ => out.copy_from_slice(&value.to_le_bytes()),
            }
        }
    });
    Ok(out.into())
}
