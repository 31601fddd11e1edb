//! Blocks of 256 elements with two levels of scales.

use super::layout::{Layout, Parts, pack, regroup_halves};

/// f16 `d` and `dmin`, 12 bytes of scales and minima, 128 bytes of codes.
pub(super) struct Q4K;

impl Layout for Q4K {
    const PARTS: [usize; 5] = [128, 6, 6, 2, 2];

    #[inline(always)]
    fn take_apart(block: &[u8], [codes, parts @ ..]: Parts<'_>) {
        scales(&block[..16], parts);
        let groups = block[16..].as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<32>().0);
        groups.for_each(|(bytes, codes)| regroup_halves(bytes, codes));
    }
}

/// As `Q4_K`, with 32 bytes of fifth bits before the codes.
pub(super) struct Q5K;

impl Layout for Q5K {
    const PARTS: [usize; 5] = [160, 6, 6, 2, 2];

    #[inline(always)]
    fn take_apart(block: &[u8], [out, parts @ ..]: Parts<'_>) {
        scales(&block[..16], parts);
        let (fifth, mut codes) = (&block[16..48], nibbles::<32>(&block[48..]));
        // Bit `g` of byte `i` is of element `i` of group `g` of 32.
        codes.iter_mut().enumerate().for_each(|(i, code)| *code |= (fifth[i % 32] >> (i / 32) & 1) << 4);
        pack::<5>(&codes, out);
    }
}

/// 128 bytes of low nibbles, 64 of the two bits above, 16 signed scales, f16 `d`.
pub(super) struct Q6K;

impl Layout for Q6K {
    const PARTS: [usize; 5] = [192, 16, 0, 2, 0];

    #[inline(always)]
    fn take_apart(block: &[u8], [out, scales, _, second_scales, _]: Parts<'_>) {
        let (upper, mut codes) = (&block[128..192], nibbles::<64>(&block[..128]));
        // Within each half of the block, bits `2g..2g + 2` of byte `i` are of element `i` of group
        // `g` of 32.
        for (i, code) in codes.iter_mut().enumerate() {
            let byte = upper[i / 128 * 32 + i % 32];
            *code |= (byte >> (i % 128 / 32 * 2) & 3) << 4;
        }
        pack::<6>(&codes, out);
        scales.copy_from_slice(&block[192..208]);
        second_scales.copy_from_slice(&block[208..]);
    }
}

/// The scales of both levels and, negated, the minima: `x = d * scale * code - dmin * min`.
#[inline(always)]
fn scales(head: &[u8], [scales, mins, second_scales, second_mins]: [&mut [u8]; 4]) {
    second_scales.copy_from_slice(&head[..2]);
    // The sign bit of an f16.
    second_mins.copy_from_slice(&[head[2], head[3] ^ 0x80]);
    let packed = &head[4..];
    // The first four of each have six bits of a byte; the others have four bits of their own and
    // the two that those left.
    let scale = |i: usize| if i < 4 { packed[i] & 63 } else { packed[i + 4] & 15 | packed[i - 4] >> 6 << 4 };
    let min = |i: usize| if i < 4 { packed[i + 4] & 63 } else { packed[i + 4] >> 4 | packed[i] >> 6 << 4 };
    pack::<6>(&std::array::from_fn::<u8, 8, _>(scale), scales);
    pack::<6>(&std::array::from_fn::<u8, 8, _>(min), mins);
}

/// Of each `LEN` bytes the low nibbles are the next elements, and then the high ones.
#[inline(always)]
fn nibbles<const LEN: usize>(bytes: &[u8]) -> [u8; 256] {
    std::array::from_fn(|i| bytes[i / (2 * LEN) * LEN + i % LEN] >> (i / LEN % 2 * 4) & 15)
}
