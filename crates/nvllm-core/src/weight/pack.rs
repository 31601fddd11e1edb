//! Writing the bit strings of a [`CanonicalTensor`](super::CanonicalTensor): what readers of public
//! formats do.

use bytes::Bytes;

/// Packs rows of `cols` items, the low `bits` (1 to 32) of each, in the layout that
/// [`tensor`](super::tensor) defines: from the lowest bit up, each row padded with zeros to a whole
/// byte.
pub fn pack(items: impl IntoIterator<Item = u32>, bits: usize, cols: usize) -> Bytes {
    let mut bytes = Vec::new();
    let (mut word, mut held, mut col) = (0_u64, 0, 0);
    for item in items {
        word |= (u64::from(item) & ((1 << bits) - 1)) << held;
        (held, col) = (held + bits, col + 1);
        while held >= 8 || (col == cols && held > 0) {
            bytes.push(word as u8);
            (word, held) = (word >> 8, held.saturating_sub(8));
        }
        if col == cols {
            col = 0;
        }
    }
    Bytes::from(bytes)
}
