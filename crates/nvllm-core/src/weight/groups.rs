//! The scales and offsets of a coded tensor as f32, a row of blocks at a time: what a backend keeps
//! beside the codes if its kernels do not take a format's own.

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use super::{CanonicalTensor, Code, Offset, ScaleType, Scales};

impl CanonicalTensor {
    /// The scale of each block of columns that row `row` passes, second level included: as many as
    /// fill `out`. The tensor is coded and has passed [`check`](Self::check).
    pub fn block_scales(&self, row: usize, out: &mut [f32]) {
        let Some(Scales { kind, block, second }) = self.format.scales else { return };
        values(&self.scales, kind, row / block[0], out);
        if let Some(second) = second {
            let at = row / second.block[0];
            times(&self.second_scales, second.kind, at, second.block[1] / block[1], out);
        }
    }

    /// The offset of each such block as the format's formula takes it: the middle of the codes, a
    /// zero point, or a value; 0 for formats without.
    pub fn block_offsets(&self, row: usize, out: &mut [f32]) {
        let Some(Scales { kind, block, second }) = self.format.scales else { return };
        let bits = self.format.code.bits();
        match self.format.offset {
            Offset::None => out.fill(0.0),
            Offset::Midpoint => out.fill(f32::from(1_u16 << (bits - 1))),
            Offset::Int => {
                let kind = self.format.code;
                let number = |raw: u8| if kind == Code::I8 { f32::from(raw as i8) } else { f32::from(raw) };
                unpacked(&self.offsets, bits, row / block[0], out, |raw| number(raw as u8));
            }
            Offset::Float => {
                values(&self.offsets, kind, row / block[0], out);
                if let Some(second) = second {
                    let at = row / second.block[0];
                    times(&self.second_offsets, second.kind, at, second.block[1] / block[1], out);
                }
            }
        }
    }
}

/// One level of scales or offsets.
fn values(bytes: &[u8], kind: ScaleType, row: usize, out: &mut [f32]) {
    if kind != ScaleType::F16 {
        return unpacked(bytes, kind.bits(), row, out, |raw| kind.value(raw));
    }
    let items = &bytes[2 * row * out.len()..][..2 * out.len()];
    let halves: Vec<_> = items.as_chunks().0.iter().map(|item| f16::from_le_bytes(*item)).collect();
    halves.convert_to_f32_slice(out);
}

/// Multiplies each of `per` neighbours by one value of the second level.
fn times(bytes: &[u8], kind: ScaleType, row: usize, per: usize, out: &mut [f32]) {
    let per = per.clamp(1, out.len().max(1));
    let mut second = vec![0.0; out.len().div_ceil(per)];
    values(bytes, kind, row, &mut second);
    for (block, second) in out.chunks_mut(per).zip(second) {
        block.iter_mut().for_each(|x| *x *= second);
    }
}

/// Row `row` of items of `bits` bits, which fills `out`, each row padded to a whole byte.
fn unpacked(bytes: &[u8], bits: usize, row: usize, out: &mut [f32], value: impl Fn(u32) -> f32) {
    let row_bytes = (out.len() * bits).div_ceil(8);
    let row = &bytes[row * row_bytes..][..row_bytes];
    for (i, x) in out.iter_mut().enumerate() {
        let (first, shift) = (i * bits / 8, i * bits % 8);
        let read = &row[first..(first + (shift + bits).div_ceil(8)).min(row.len())];
        let word = read.iter().rev().fold(0_u64, |word, &byte| word << 8 | u64::from(byte));
        *x = value((word >> shift & ((1 << bits) - 1)) as u32);
    }
}
