//! Tensor maps: what the copy engine of Hopper (TMA) is told of a matrix, made once at load and
//! given to kernels by value.

use std::ffi::c_void;
use std::rc::Rc;

use cudarc::driver::sys;

use crate::memory::Address;

/// Rows and columns of the box that one copy moves: rows of 128 bytes, as wide as the swizzle.
const BOX: u32 = 64;

/// A row-major matrix of bf16, read in boxes of 64 x 64 with 16-byte pieces swizzled over 128
/// bytes; zeros beyond its extents.
#[derive(Clone, Debug)]
pub(crate) struct TensorMap(Rc<sys::CUtensorMap>);

impl TensorMap {
    /// The map of `rows` rows of `cols` elements at `at`. A row is a multiple of 16 bytes, and so
    /// is the address.
    ///
    /// None if the driver makes none: other kernels then run the layer.
    pub(crate) fn new(at: Address, rows: usize, cols: usize) -> Option<Self> {
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let (extents, pitch) = ([cols as u64, rows as u64], [2 * cols as u64]);
        let (extent_of_box, every) = ([BOX, BOX], [1, 1]);
        // SAFETY: writes the map; the arrays have the length that a rank of 2 asks for. The call
        // came with CUDA 12.0, the oldest driver that `Device` opens. The address is not looked at
        // before a kernel reads there.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                at as *mut c_void,
                extents.as_ptr(),
                pitch.as_ptr(),
                extent_of_box.as_ptr(),
                every.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        match status.result() {
            Ok(()) => Some(Self(Rc::new(map))),
            Err(error) => {
                tracing::warn!(%error, rows, cols, "no tensor map could be made: slower kernels run this linear layer");
                None
            }
        }
    }

    /// A map of nothing, for tests of what is chosen.
    #[cfg(test)]
    pub(crate) fn unset() -> Self {
        Self(Rc::new(sys::CUtensorMap { opaque: [0; 16] }))
    }

    /// Its 128 bytes, as a kernel's parameter.
    pub(crate) fn pointer(&self) -> *const c_void {
        Rc::as_ptr(&self.0).cast()
    }
}
