//! Tensor maps: what the copy engine of Hopper (TMA) is told of a matrix, made once at load and
//! given to kernels by value.

use std::ffi::c_void;
use std::rc::Rc;

use cudarc::driver::sys;

use crate::error::{Doing, Result};
use crate::memory::Address;

/// Columns of a box: 128 bytes, as wide as the swizzle.
const COLS: usize = 64;

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

/// A row-major matrix of bf16 as the copy engine sees it: steps of 64 columns, halves, rows of a
/// half, 64 columns; 16-byte pieces swizzled over 128 bytes, zeros beyond its extents.
#[derive(Clone, Debug)]
pub(crate) struct TensorMap(Rc<sys::CUtensorMap>);

impl TensorMap {
    /// The map of `rows` rows of `cols` elements at `at`, a multiple of 16. `cols` is a multiple of
    /// 64, `rows` of the halves.
    pub(crate) fn new(at: Address, rows: usize, cols: usize, each: CopyBox) -> Result<Self> {
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let (of_half, pitch) = ((rows / each.halves) as u64, 2 * cols as u64);
        let extents = [COLS as u64, of_half, each.halves as u64, (cols / COLS) as u64];
        let pitches = [pitch, pitch * of_half, 2 * COLS as u64];
        let extents_of_box = [COLS, each.rows, each.halves, each.steps].map(|extent| extent as u32);
        let every = [1; 4];
        // SAFETY: writes the map; the arrays have the length that a rank of 4 asks for. The call
        // came with CUDA 12.0, the oldest driver that `Device` opens. The address is not looked at
        // before a kernel reads there.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                4,
                at as *mut c_void,
                extents.as_ptr(),
                pitches.as_ptr(),
                extents_of_box.as_ptr(),
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

    /// Its 128 bytes, as a kernel's parameter.
    pub(crate) fn pointer(&self) -> *const c_void {
        Rc::as_ptr(&self.0).cast()
    }
}
