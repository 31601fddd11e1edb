//! Rows of coded tensors as f32, a row at a time.
//!
//! [`dequant_row`](CanonicalTensor::dequant_row) says what an element's value is, one by one. This
//! is for whole models: the same operations on the same values, and so the same bits, in loops that
//! do one thing each, as vector instructions where the compiler can.

use super::table::e4m3_to_f32;
use super::{CanonicalTensor, Code, Offset};

/// Expands rows of a tensor that has passed [`check`](CanonicalTensor::check).
pub(super) struct Expander<'a> {
    tensor: &'a CanonicalTensor,
    /// The values of codes of at most 8 bits.
    values: [f32; 256],
    /// Of a row's blocks.
    scales: Vec<f32>,
    offsets: Vec<f32>,
}

impl<'a> Expander<'a> {
    pub(super) fn new(tensor: &'a CanonicalTensor) -> Self {
        let values = code_values(tensor.format.code);
        Self { tensor, values, scales: Vec::new(), offsets: Vec::new() }
    }

    /// What `dequant_row` writes, on the same conditions.
    pub(super) fn row(&mut self, row: usize, out: &mut [f32]) {
        let Self { tensor, values, scales, offsets } = self;
        let Some(form) = tensor.format.scales.filter(|_| tensor.k_perm.is_none()) else {
            return tensor.dequant_row(row, out);
        };
        let bits = tensor.format.code.bits();
        let row_bytes = (out.len() * bits).div_ceil(8);
        let codes = &tensor.codes[row * row_bytes..(row + 1) * row_bytes];
        match bits {
            4 if tensor.format.code == Code::U4 => nibbles(codes, out),
            4 => look_up::<4>(codes, values, out),
            5 => look_up::<5>(codes, values, out),
            6 => look_up::<6>(codes, values, out),
            _ => look_up::<8>(codes, values, out),
        }
        let width = form.block[1].min(out.len()).max(1);
        let num_blocks = out.len().div_ceil(width);
        scales.resize(num_blocks, 0.0);
        offsets.resize(num_blocks, 0.0);
        tensor.block_scales(row, scales);
        tensor.block_offsets(row, offsets);
        let blocks = out.chunks_mut(width).zip(&*scales).zip(&*offsets);
        match tensor.format.offset {
            Offset::None => blocks.for_each(|((block, scale), _)| block.iter_mut().for_each(|x| *x *= scale)),
            Offset::Midpoint | Offset::Int => {
                for ((block, scale), offset) in blocks {
                    block.iter_mut().for_each(|x| *x = scale * (*x - offset));
                }
            }
            Offset::Float => {
                for ((block, scale), offset) in blocks {
                    block.iter_mut().for_each(|x| *x = scale * *x + offset);
                }
            }
        }
    }
}

/// The value of each code of at most 8 bits.
fn code_values(code: Code) -> [f32; 256] {
    std::array::from_fn(|raw| match code {
        Code::I8 => f32::from(raw as u8 as i8),
        Code::E4M3 => e4m3_to_f32(raw as u8),
        Code::Lut4(table) => table.values()[raw % 16],
        Code::U4 | Code::U5 | Code::U6 | Code::Dense(_) => raw as f32,
    })
}

/// Codes of four bits that are numbers.
fn nibbles(codes: &[u8], out: &mut [f32]) {
    let (pairs, last) = out.as_chunks_mut::<2>();
    for (byte, pair) in codes.iter().zip(pairs) {
        *pair = [byte & 15, byte >> 4].map(f32::from);
    }
    last.iter_mut().for_each(|x| *x = f32::from(codes[codes.len() - 1] & 15));
}

/// The values of codes of `BITS` bits: eight of them fill as many bytes as one has bits.
fn look_up<const BITS: usize>(codes: &[u8], values: &[f32; 256], out: &mut [f32]) {
    let (eights, last) = out.as_chunks_mut::<8>();
    let (groups, rest) = codes.split_at(eights.len() * BITS);
    let word = |codes: &[u8]| {
        let mut word = [0; 8];
        word[..codes.len()].copy_from_slice(codes);
        u64::from_le_bytes(word)
    };
    let value = |word: u64, i: usize| values[(word >> (i * BITS)) as usize & ((1 << BITS) - 1)];
    // All of a group at once: a length that is known makes the loop many times as fast.
    for (codes, out) in groups.as_chunks::<BITS>().0.iter().zip(eights) {
        let word = word(codes);
        *out = std::array::from_fn(|i| value(word, i));
    }
    let word = word(rest);
    last.iter_mut().enumerate().for_each(|(i, x)| *x = value(word, i));
}
