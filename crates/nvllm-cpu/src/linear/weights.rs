//! The weights of a linear layer: segments of whole rows, dense or coded.

use nvllm_cpu_kernels::{CodedRows, DotKernels};

use crate::coded::Coded;
use crate::error::ensure;
use crate::{ActMode, Elem, Kernels, Result, SumOrder};

/// Rows of a weight that lie together in one form.
#[derive(Clone, Copy, Debug)]
pub enum Segment<'a> {
    /// Whole rows of one element type; at least 2-byte alignment is usual, none is required.
    Dense(&'a [u8], Elem),
    /// So many rows of a coded matrix, from a row on.
    Coded(&'a Coded, usize, usize),
}

impl Segment<'_> {
    /// Rows of `k` columns; none if they are not whole rows of so many.
    pub(crate) fn num_rows(&self, k: usize) -> Option<usize> {
        match self {
            Self::Dense(bytes, elem) => {
                let row_bytes = k * elem.size();
                (row_bytes > 0 && bytes.len().is_multiple_of(row_bytes)).then(|| bytes.len() / row_bytes)
            }
            Self::Coded(coded, first, n) => {
                (k == coded.cols() && first + n <= coded.num_rows()).then_some(*n)
            }
        }
    }

    /// The element type of dense rows.
    pub(crate) fn elem(&self) -> Option<Elem> {
        match self {
            Self::Dense(_, elem) => Some(*elem),
            Self::Coded(..) => None,
        }
    }

    /// The kernels for it: for coded rows those for what they become on their way.
    pub(super) fn dot(&self, kernels: &Kernels, mode: ActMode) -> &'static DotKernels {
        let elem = match self {
            Self::Dense(_, elem) => *elem,
            Self::Coded(..) => kernels.coded(mode).elem,
        };
        kernels.dot(elem, mode)
    }

    /// The order of its sums; none for those of integers.
    pub(super) fn order(&self, kernels: &Kernels, mode: ActMode) -> Option<SumOrder> {
        let int8 = matches!(self, Self::Coded(coded, ..) if coded.is_int8());
        (!int8).then(|| self.dot(kernels, mode).order)
    }

    pub(super) fn place(&self) -> Place {
        match *self {
            Self::Dense(bytes, elem) => Place::Dense(bytes.as_ptr(), elem),
            Self::Coded(coded, first, n) => Place::Coded(coded.rows(first, n)),
        }
    }

    pub(super) fn row_bytes(&self, k: usize) -> usize {
        match self {
            Self::Dense(_, elem) => k * elem.size(),
            Self::Coded(coded, ..) => coded.row_bytes(),
        }
    }
}

/// A weight matrix `n x k`, row-major; its rows are the segments' rows in order.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// Runs of whole rows.
    pub segments: &'a [Segment<'a>],
    /// Columns.
    pub k: usize,
}

impl Weights<'_> {
    /// Rows over all segments.
    ///
    /// # Errors
    /// `k` is 0 or a segment is no whole number of rows.
    pub fn num_rows(&self) -> Result<usize> {
        let rows = self.segments.iter().map(|segment| segment.num_rows(self.k)).sum::<Option<usize>>();
        ensure!(self.k > 0 && rows.is_some(), "linear", "weight segments are not whole rows of {}", self.k);
        Ok(rows.unwrap_or(0))
    }
}

/// One of several products that share their input: an expert, with the rows that chose it.
#[derive(Clone, Copy, Debug)]
pub struct ExpertRows<'a> {
    /// `n x k`.
    pub weight: Segment<'a>,
    /// Rows of x to multiply.
    pub x_rows: &'a [u32],
    /// Where each product goes; as long as `x_rows`, each output row named once over all experts.
    pub out_rows: &'a [u32],
}

/// Where the rows of a segment begin.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Dense(*const u8, Elem),
    Coded(CodedRows),
}
