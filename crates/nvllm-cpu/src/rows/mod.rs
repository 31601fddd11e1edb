//! Views of matrices in memory.

mod ops;

pub use ops::NormWeight;

use half::{bf16, f16};

use crate::error::ensure;
use crate::{Elem, Result};

/// A matrix to read: `num_rows x cols`, rows `stride` elements apart.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names, reason = "counts are `num_*` throughout")]
pub struct Rows<'a> {
    bytes: &'a [u8],
    elem: Elem,
    num_rows: usize,
    cols: usize,
    stride: usize,
}

/// A matrix to write, as [`Rows`].
#[derive(Debug)]
pub struct RowsMut<'a> {
    bytes: &'a mut [u8],
    elem: Elem,
    num_rows: usize,
    cols: usize,
    stride: usize,
}

fn check(len: usize, elem: Elem, num_rows: usize, cols: usize) -> Result<()> {
    let need = num_rows.checked_mul(cols).and_then(|n| n.checked_mul(elem.size()));
    ensure!(need == Some(len), "matrix", "{num_rows} x {cols} of {elem:?} do not fill {len} bytes");
    Ok(())
}

impl<'a> Rows<'a> {
    /// A dense matrix that fills `bytes`.
    ///
    /// # Errors
    /// The extents do not multiply to the length.
    pub fn new(bytes: &'a [u8], elem: Elem, num_rows: usize, cols: usize) -> Result<Self> {
        check(bytes.len(), elem, num_rows, cols)?;
        Ok(Self { bytes, elem, num_rows, cols, stride: cols })
    }

    /// Columns `first .. first + cols` of every row.
    ///
    /// # Errors
    /// The columns are not there.
    pub fn columns(self, first: usize, cols: usize) -> Result<Self> {
        ensure!(first + cols <= self.cols, "matrix", "columns {first}..{} of {}", first + cols, self.cols);
        let bytes = &self.bytes[(first * self.elem.size()).min(self.bytes.len())..];
        Ok(Self { bytes, cols, ..self })
    }

    /// Rows.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Element type.
    pub fn elem(&self) -> Elem {
        self.elem
    }

    /// The address of a row; `row < num_rows`.
    pub(crate) fn row(&self, row: usize) -> *const u8 {
        debug_assert!(row < self.num_rows);
        self.bytes.as_ptr().wrapping_add(row * self.stride * self.elem.size())
    }

    /// The elements of a row as f32; `row < num_rows`.
    pub(crate) fn row_as_f32(&self, row: usize) -> Vec<f32> {
        let (start, len) = (row * self.stride * self.elem.size(), self.cols * self.elem.size());
        to_f32(&self.bytes[start..start + len], self.elem)
    }
}

/// Stored elements as f32, exactly.
pub(crate) fn to_f32(bytes: &[u8], elem: Elem) -> Vec<f32> {
    let pairs = || bytes.as_chunks().0.iter().copied();
    match elem {
        Elem::F32 => bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        Elem::F16 => pairs().map(|bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        Elem::Bf16 => pairs().map(|bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
    }
}

impl<'a> RowsMut<'a> {
    /// As [`Rows::new`].
    ///
    /// # Errors
    /// The extents do not multiply to the length.
    pub fn new(bytes: &'a mut [u8], elem: Elem, num_rows: usize, cols: usize) -> Result<Self> {
        check(bytes.len(), elem, num_rows, cols)?;
        Ok(Self { bytes, elem, num_rows, cols, stride: cols })
    }

    /// As [`Rows::columns`].
    ///
    /// # Errors
    /// The columns are not there.
    pub fn columns(self, first: usize, cols: usize) -> Result<Self> {
        ensure!(first + cols <= self.cols, "matrix", "columns {first}..{} of {}", first + cols, self.cols);
        let at = (first * self.elem.size()).min(self.bytes.len());
        Ok(Self { bytes: &mut self.bytes[at..], cols, ..self })
    }

    /// Rows.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What threads share to write disjoint rows.
    pub(crate) fn target(&mut self) -> Target {
        Target { ptr: self.bytes.as_mut_ptr(), elem: self.elem, stride: self.stride }
    }
}

/// The address of a matrix that several threads write disjoint parts of.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    ptr: *mut u8,
    pub(crate) elem: Elem,
    pub(crate) stride: usize,
}

// SAFETY: an address; the ops that share it give every element to one thread.
unsafe impl Sync for Target {}
// SAFETY: as above.
unsafe impl Send for Target {}

impl Target {
    pub(crate) fn row(&self, row: usize) -> *mut u8 {
        self.ptr.wrapping_add(row * self.stride * self.elem.size())
    }
}
