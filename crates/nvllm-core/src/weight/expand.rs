//! Rows of coded tensors as f32, a block at a time.
//!
//! [`dequant_row`](CanonicalTensor::dequant_row) says what an element's value is, one by one. This
//! is for whole models: the same operations on the same values, and so the same bits, with a row's
//! codes unpacked at once and a code's value looked up.

use super::table::e4m3_to_f32;
use super::{CanonicalTensor, Code, Offset};

impl CanonicalTensor {
    /// What [`dequant_row`](Self::dequant_row) writes, on the same conditions; `values` are those
    /// of the format's codes.
    pub(super) fn expand_row(&self, row: usize, values: &[f32; 256], out: &mut [f32]) {
        let Some(scales) = self.format.scales.filter(|_| self.k_perm.is_none()) else {
            return self.dequant_row(row, out);
        };
        let bits = self.format.code.bits();
        let row_bytes = (out.len() * bits).div_ceil(8);
        let codes = &self.codes[row * row_bytes..(row + 1) * row_bytes];
        match bits {
            4 => look_up::<4>(codes, values, out),
            5 => look_up::<5>(codes, values, out),
            6 => look_up::<6>(codes, values, out),
            _ => look_up::<8>(codes, values, out),
        }
        let width = scales.block[1].min(out.len()).max(1);
        for (at, block) in out.chunks_mut(width).enumerate() {
            let col = at * width;
            let (scale, offset) = (self.scale(row, col), self.offset(row, col));
            match self.format.offset {
                Offset::None => block.iter_mut().for_each(|x| *x *= scale),
                Offset::Midpoint | Offset::Int => block.iter_mut().for_each(|x| *x = scale * (*x - offset)),
                Offset::Float => block.iter_mut().for_each(|x| *x = scale * *x + offset),
            }
        }
    }
}

/// The value of each code of at most 8 bits.
pub(super) fn code_values(code: Code) -> [f32; 256] {
    std::array::from_fn(|raw| match code {
        Code::I8 => f32::from(raw as u8 as i8),
        Code::E4M3 => e4m3_to_f32(raw as u8),
        Code::Lut4(table) => table.values()[raw % 16],
        Code::U4 | Code::U5 | Code::U6 | Code::Dense(_) => raw as f32,
    })
}

/// The values of codes of `BITS` bits: eight of them fill as many bytes as one has bits.
fn look_up<const BITS: usize>(codes: &[u8], values: &[f32; 256], out: &mut [f32]) {
    for (codes, out) in codes.chunks(BITS).zip(out.chunks_mut(8)) {
        let mut word = [0; 8];
        word[..codes.len()].copy_from_slice(codes);
        let word = u64::from_le_bytes(word);
        for (i, x) in out.iter_mut().enumerate() {
            *x = values[(word >> (i * BITS)) as usize & ((1 << BITS) - 1)];
        }
    }
}
