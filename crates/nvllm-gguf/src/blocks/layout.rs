//! What every type's blocks have: parts, and how nibbles lie.

/// How the blocks of a type are taken apart. A block fills whole bytes of each part, so that rows
/// have no padding.
pub(super) trait Layout {
    /// Bytes of a block's codes, scales and offsets, and of the second level's: together the block.
    const PARTS: [usize; 5];
    const BYTES: usize = {
        let [codes, scales, offsets, second_scales, second_offsets] = Self::PARTS;
        codes + scales + offsets + second_scales + second_offsets
    };

    /// Writes all of one block's parts.
    fn take_apart(block: &[u8], parts: Parts<'_>);
}

/// Codes, scales and offsets, and the second level's: of one block, or of some in a row.
pub(super) type Parts<'a> = [&'a mut [u8]; 5];

/// Writes codes of `BITS` bits, a multiple of eight of them: from the lowest bit of a byte up,
/// eight codes in as many bytes as a code has bits.
#[inline(always)]
pub(super) fn pack<const BITS: usize>(codes: &[u8], out: &mut [u8]) {
    for (eight, out) in codes.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<BITS>().0) {
        let word = eight.iter().rev().fold(0_u64, |word, &code| word << BITS | u64::from(code));
        out.copy_from_slice(&word.to_le_bytes()[..BITS]);
    }
}

/// Codes of four bits: of `bytes` the low nibbles are the first half, the high ones the second.
#[inline(always)]
pub(super) fn regroup_halves(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len() / 2);
    for ((pair, low), high) in bytes.as_chunks().0.iter().zip(low).zip(high) {
        let pair = u16::from_le_bytes(*pair);
        *low = (pair & 0x0f | pair >> 4 & 0xf0) as u8;
        *high = (pair >> 4 & 0x0f | pair >> 8 & 0xf0) as u8;
    }
}
