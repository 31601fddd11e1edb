//! Blocks of 32 elements under one f16 scale.

use super::layout::{Layout, Parts, pack, regroup_halves};

/// f16 `d`, then 16 bytes.
pub(super) struct Q4_0;

impl Layout for Q4_0 {
    const PARTS: [usize; 5] = [16, 2, 0, 0, 0];

    #[inline(always)]
    fn take_apart(block: &[u8], [codes, scales, ..]: Parts<'_>) {
        scales.copy_from_slice(&block[..2]);
        regroup_halves(&block[2..], codes);
    }
}

/// f16 `d` and `m`, then 16 bytes.
pub(super) struct Q4_1;

impl Layout for Q4_1 {
    const PARTS: [usize; 5] = [16, 2, 2, 0, 0];

    #[inline(always)]
    fn take_apart(block: &[u8], [codes, scales, offsets, ..]: Parts<'_>) {
        scales.copy_from_slice(&block[..2]);
        offsets.copy_from_slice(&block[2..4]);
        regroup_halves(&block[4..], codes);
    }
}

/// f16 `d`, the fifth bits of all elements, then 16 bytes.
pub(super) struct Q5_0;

impl Layout for Q5_0 {
    const PARTS: [usize; 5] = [20, 2, 0, 0, 0];

    #[inline(always)]
    fn take_apart(block: &[u8], [codes, scales, ..]: Parts<'_>) {
        scales.copy_from_slice(&block[..2]);
        pack::<5>(&with_fifth_bits(&block[2..6], halves(&block[6..])), codes);
    }
}

/// f16 `d` and `m`, the fifth bits of all elements, then 16 bytes.
pub(super) struct Q5_1;

impl Layout for Q5_1 {
    const PARTS: [usize; 5] = [20, 2, 2, 0, 0];

    #[inline(always)]
    fn take_apart(block: &[u8], [codes, scales, offsets, ..]: Parts<'_>) {
        scales.copy_from_slice(&block[..2]);
        offsets.copy_from_slice(&block[2..4]);
        pack::<5>(&with_fifth_bits(&block[4..8], halves(&block[8..])), codes);
    }
}

/// f16 `d`, then 32 bytes.
pub(super) struct Q8_0;

impl Layout for Q8_0 {
    const PARTS: [usize; 5] = [32, 2, 0, 0, 0];

    #[inline(always)]
    fn take_apart(block: &[u8], [codes, scales, ..]: Parts<'_>) {
        scales.copy_from_slice(&block[..2]);
        codes.copy_from_slice(&block[2..]);
    }
}

/// Low nibbles are the first half of a block, high nibbles the second.
#[inline(always)]
fn halves(bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

/// Element `i` has bit `i`.
#[inline(always)]
fn with_fifth_bits(bits: &[u8], mut codes: [u8; 32]) -> [u8; 32] {
    codes.iter_mut().enumerate().for_each(|(i, code)| *code |= (bits[i / 8] >> (i % 8) & 1) << 4);
    codes
}
