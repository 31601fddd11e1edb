//! Tensor maps: what the copy engine of Hopper (TMA) is told of a matrix, made once at load and
//! given to kernels by value or in device memory.

use std::ffi::c_void;
use std::rc::Rc;

use cudarc::driver::sys;

use crate::error::{Doing, Result};
use crate::kernels::linear::linear_order::RANGES;
use crate::memory::Address;

/// Columns of a box: 128 bytes, as wide as the swizzle.
const COLS: usize = 64;

/// Bytes of a map.
pub(crate) const MAP_BYTES: usize = 128;

/// What one copy moves of a matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyBox {
    /// Parts into which the matrix's rows are cut, of each of which a box takes some rows: gate and
    /// up where one matrix holds both.
    pub halves: usize,
    /// Rows of each half.
    pub rows: usize,
    /// Steps of 64 columns.
    pub steps: usize,
}

/// What one copy moves of a matrix whose columns are cut into ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RangeBox {
    /// As in [`CopyBox`].
    pub halves: usize,
    /// Rows of each half.
    pub rows: usize,
    /// Steps of 64 columns, of each range.
    pub steps: usize,
    /// Columns of a range, a multiple of 64.
    pub range: usize,
    /// Ranges of the matrix that are read; for up to [`RANGES`] there is room.
    pub ranges: usize,
}

/// A row-major matrix of 16-bit elements as the copy engine sees it: steps of 64 columns, of ranges
/// if it is cut into some, halves, rows of a half, 64 columns; 16-byte pieces swizzled over 128
/// bytes, zeros beyond its extents.
#[derive(Clone, Debug)]
pub(crate) struct TensorMap(Rc<sys::CUtensorMap>);

impl TensorMap {
    /// The map of `rows` rows of `cols` elements at `at`, a multiple of 16. `cols` is a multiple of
    /// 64, `rows` of the halves.
    pub(crate) fn new(at: Address, rows: usize, cols: usize, each: CopyBox) -> Result<Self> {
        let (of_half, pitch) = (rows / each.halves, 2 * cols);
        Self::encode(
            at,
            [COLS, of_half, each.halves, cols / COLS],
            [pitch, pitch * of_half, 2 * COLS],
            [COLS, each.rows, each.halves, each.steps],
        )
    }

    /// Likewise of columns cut into ranges, all of which a box takes; what lies beyond the matrix
    /// in the last one is read.
    pub(crate) fn of_ranges(at: Address, rows: usize, cols: usize, each: RangeBox) -> Result<Self> {
        let (of_half, pitch) = (rows / each.halves, 2 * cols);
        Self::encode(
            at,
            [COLS, of_half, each.halves, each.ranges, each.range / COLS],
            [pitch, pitch * of_half, 2 * each.range, 2 * COLS],
            [COLS, each.rows, each.halves, RANGES, each.steps],
        )
    }

    /// `pitches`: bytes from one to the next in each dimension but the first.
    fn encode<const RANK: usize, const PITCHES: usize>(
        at: Address,
        extents: [usize; RANK],
        pitches: [usize; PITCHES],
        of_box: [usize; RANK],
    ) -> Result<Self> {
        const { assert!(PITCHES + 1 == RANK) };
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let (extents, pitches) = (extents.map(|n| n as u64), pitches.map(|n| n as u64));
        let (of_box, every) = (of_box.map(|n| n as u32), [1; RANK]);
        // SAFETY: writes the map; the arrays have the length that the rank asks for. The call came
        // with CUDA 12.0, the oldest driver that `Device` opens. The address is not looked at
        // before a kernel reads there.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                RANK as u32,
                at as *mut c_void,
                extents.as_ptr(),
                pitches.as_ptr(),
                of_box.as_ptr(),
                every.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .doing("making a tensor map")?;
        Ok(Self(Rc::new(map)))
    }

    /// Its [`MAP_BYTES`], as a kernel's parameter.
    pub(crate) fn pointer(&self) -> *const c_void {
        Rc::as_ptr(&self.0).cast()
    }

    /// The same bytes, for device memory: at a multiple of 64.
    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0.opaque)
    }
}
