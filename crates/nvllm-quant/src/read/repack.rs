//! Bits of one layout in another.

use std::sync::Arc;

use bytes::Bytes;
use nvllm_core::weight::{WHOLE, pack};
use nvllm_core::{CoreError, Result};

use super::module::Part;

/// The transpose of a matrix of `rows` rows of items of `N` bytes.
pub(super) fn transposed<const N: usize>(bytes: &[u8], rows: usize) -> Vec<u8> {
    // Rows that are written at once: each cache line that is read serves all of its items.
    const TILE: usize = 16;
    let (items, _) = bytes.as_chunks::<N>();
    let cols = items.len().checked_div(rows).unwrap_or(0);
    let mut out = vec![[0; N]; items.len()];
    for first in (0..cols).step_by(TILE) {
        let tile = first..cols.min(first + TILE);
        for (row, items) in items.chunks_exact(cols).enumerate() {
            for col in tile.clone() {
                out[col * rows + row] = items[col];
            }
        }
    }
    out.into_flattened()
}

/// Scales `[groups, n]` as rows of blocks.
pub(super) fn transposed_scales(scales: &Part, groups: usize) -> Bytes {
    match scales.scale_type().bits() {
        16 => transposed::<2>(&scales.raw.bytes, groups).into(),
        _ => transposed::<4>(&scales.raw.bytes, groups).into(),
    }
}

/// Unsigned 8-bit codes as signed ones: 128 less. The words' other layout stays.
pub(super) fn to_signed(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte ^= 0x80);
}

/// Rows of `row_bytes` bytes of 4- or 8-bit codes with stored column `i` taken from column
/// `order[i]`.
pub(super) fn reordered(bytes: &[u8], bits: usize, row_bytes: usize, order: &[u32]) -> Bytes {
    let code = |row: &[u8], col: u32| {
        let col = col as usize;
        u32::from(if bits == 8 { row[col] } else { row[col / 2] >> (col % 2 * 4) })
    };
    let rows = bytes.chunks_exact(row_bytes.max(1));
    pack::pack(rows.flat_map(|row| order.iter().map(move |&col| code(row, col))), bits, order.len())
}

/// How many groups `cols` columns make.
pub(super) fn num_groups(cols: usize, group: usize) -> usize {
    if group == WHOLE { 1 } else { cols.div_ceil(group) }
}

/// The columns in the order of their groups, if `g_idx`, which gives each column's group, is not
/// the plain one: column `k` in group `k / group`.
///
/// Errors if a group has not as many columns as the others.
pub(super) fn column_order(g_idx: &Part, cols: usize, group: usize) -> Result<Option<Arc<[u32]>>> {
    let of: Vec<_> = g_idx.to_words();
    let groups = num_groups(cols, group);
    if of.iter().enumerate().all(|(col, &at)| at as usize == if group == WHOLE { 0 } else { col / group }) {
        return Ok(None);
    }
    let mut counts = vec![0; groups];
    for &at in &of {
        let known = counts.get_mut(at as usize);
        *known.ok_or_else(|| {
            g_idx.bad(format!("puts a column into group {}; there are {groups} groups", at.cast_signed()))
        })? += 1;
    }
    let expected = |at: usize| group.min(cols - at * group.min(cols));
    if let Some((at, count)) = counts.iter().enumerate().find(|(at, count)| **count != expected(*at)) {
        return Err(uneven(g_idx, at, *count, expected(at)));
    }
    let mut order: Vec<u32> = (0..of.len() as u32).collect();
    order.sort_by_key(|&col| of[col as usize]);
    Ok(Some(order.into()))
}

fn uneven(g_idx: &Part, group: usize, count: usize, expected: usize) -> CoreError {
    g_idx.bad(format!("puts {count} columns into group {group}, where group_size makes them {expected}"))
}
