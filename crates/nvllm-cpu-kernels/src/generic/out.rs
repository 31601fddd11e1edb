//! Where results go, and how they get there.

use super::with_elem;
use crate::elem::Elem;
use crate::simd::{Simd, Stored};

/// Columns of a register tile: weight rows in a panel.
pub const PANEL: usize = 4;

/// Where results go: an element (row, col) is one call's alone, and the bias is added before it is
/// written.
#[derive(Clone, Copy)]
pub struct Out {
    pub ptr: *mut u8,
    pub elem: Elem,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Output row of each activation row; null for the row itself.
    pub rows: *const u32,
    /// One f32 per column; null for none.
    pub bias: *const f32,
}

impl Out {
    /// Adds the bias to a tile of 4 x 4 sums, rounds them, and writes `rows` rows from `row` on of
    /// the columns `cols`, at most four.
    #[inline(always)]
    pub(crate) unsafe fn write<S: Simd>(
        &self,
        mut sums: [f32; 4 * PANEL],
        row: usize,
        rows: usize,
        cols: &[usize],
    ) {
        if !self.bias.is_null() {
            for r in 0..rows {
                for (j, col) in cols.iter().enumerate() {
                    sums[r * PANEL + j] += *self.bias.add(*col);
                }
            }
        }
        with_elem!(self.elem, E => {
            let mut stored = [0_u8; 4 * PANEL * 4];
            for i in (0..sums.len()).step_by(S::LANES) {
                E::store::<S>(stored.as_mut_ptr().add(i * E::BYTES), S::load(sums.as_ptr().add(i)));
            }
            for r in 0..rows {
                let row = if self.rows.is_null() { row + r } else { *self.rows.add(row + r) as usize };
                for (j, col) in cols.iter().enumerate() {
                    let from = stored.as_ptr().add((r * PANEL + j) * E::BYTES);
                    let to = self.ptr.add((row * self.stride + col) * E::BYTES);
                    std::ptr::copy_nonoverlapping(from, to, E::BYTES);
                }
            }
        });
    }
}

impl Out {
    /// Adds the bias to 16 sums of one row, rounds them, and writes those of the first `n` columns.
    #[inline(always)]
    pub(crate) unsafe fn write_row<S: Simd>(
        &self,
        mut sums: [f32; 16],
        row: usize,
        cols: &[usize; 16],
        n: usize,
    ) {
        if !self.bias.is_null() {
            for j in 0..n {
                sums[j] += *self.bias.add(cols[j]);
            }
        }
        let row = if self.rows.is_null() { row } else { *self.rows.add(row) as usize };
        with_elem!(self.elem, E => {
            let mut stored = [0_u8; 16 * 4];
            for i in (0..sums.len()).step_by(S::LANES) {
                E::store::<S>(stored.as_mut_ptr().add(i * E::BYTES), S::load(sums.as_ptr().add(i)));
            }
            for j in 0..n {
                let to = self.ptr.add((row * self.stride + cols[j]) * E::BYTES);
                std::ptr::copy_nonoverlapping(stored.as_ptr().add(j * E::BYTES), to, E::BYTES);
            }
        });
    }
}
