//! Blocks of 32 elements under one f16 scale.

use super::{Parts, pack};

/// f16 `d`, then 16 bytes.
pub(super) fn q4_0(block: &[u8], parts: &mut Parts) {
    parts.scales.extend_from_slice(&block[..2]);
    pack::<4>(&halves(&block[2..]), &mut parts.codes);
}

/// f16 `d` and `m`, then 16 bytes.
pub(super) fn q4_1(block: &[u8], parts: &mut Parts) {
    parts.scales.extend_from_slice(&block[..2]);
    parts.offsets.extend_from_slice(&block[2..4]);
    pack::<4>(&halves(&block[4..]), &mut parts.codes);
}

/// f16 `d`, the fifth bits of all elements, then 16 bytes.
pub(super) fn q5_0(block: &[u8], parts: &mut Parts) {
    parts.scales.extend_from_slice(&block[..2]);
    pack::<5>(&with_fifth_bits(&block[2..6], halves(&block[6..])), &mut parts.codes);
}

/// f16 `d` and `m`, the fifth bits of all elements, then 16 bytes.
pub(super) fn q5_1(block: &[u8], parts: &mut Parts) {
    parts.scales.extend_from_slice(&block[..2]);
    parts.offsets.extend_from_slice(&block[2..4]);
    pack::<5>(&with_fifth_bits(&block[4..8], halves(&block[8..])), &mut parts.codes);
}

/// f16 `d`, then 32 bytes.
pub(super) fn q8_0(block: &[u8], parts: &mut Parts) {
    parts.scales.extend_from_slice(&block[..2]);
    parts.codes.extend_from_slice(&block[2..]);
}

/// Low nibbles are the first half of a block, high nibbles the second.
fn halves(bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

/// Element `i` has bit `i`.
fn with_fifth_bits(bits: &[u8], mut codes: [u8; 32]) -> [u8; 32] {
    codes.iter_mut().enumerate().for_each(|(i, code)| *code |= (bits[i / 8] >> (i % 8) & 1) << 4);
    codes
}
