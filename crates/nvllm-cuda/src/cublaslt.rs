//! NVIDIA's library of matrix products, cuBLASLt, loaded when it is found. Nothing needs it.

use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};
use nvllm_core::DType;

use crate::device::Device;
use crate::error::{CudaError, Result};

/// Bytes that a product may take for partial sums: what the library's documentation advises for the
/// largest devices.
pub(crate) const WORKSPACE_BYTES: usize = 32 << 20;

/// Kernels that the library is asked for, likeliest to be fast first.
const MOST_ALGORITHMS: usize = 4;

/// How the library computes a product: plain data, of use to any handle of the same process.
pub(crate) type Algorithm = sys::cublasLtMatmulAlgo_t;

/// The version of cuBLASLt on this machine, as 10,000 * major + 100 * minor + patch; `None` if the
/// system's loader does not find it.
pub fn cublaslt_version() -> Option<usize> {
    // SAFETY: opens a library by name and looks at nothing in it.
    let found = unsafe { sys::is_culib_present() };
    // SAFETY: the library is there.
    found.then(|| unsafe { sys::cublasLtGetVersion() })
}

/// The library on one device.
pub(crate) struct CublasLt {
    device: Arc<Device>,
    handle: sys::cublasLtHandle_t,
}

impl CublasLt {
    /// `None` if the library is not on this machine.
    pub(crate) fn find(device: &Arc<Device>) -> Result<Option<Rc<Self>>> {
        if cublaslt_version().is_none() {
            tracing::warn!(
                "cuBLASLt was not found: linear layers run our kernels only (PyPI: nvidia-cublas)"
            );
            return Ok(None);
        }
        device.bind()?;
        let handle = doing("starting cuBLASLt", result::create_handle())?;
        Ok(Some(Rc::new(Self { device: Arc::clone(device), handle })))
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        let _ = self.device.bind();
        // SAFETY: made in `find`, destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// Extents and dtype of a linear layer without bias, `y[m, n] = x[m, k] W[n, k]^T (+ r[m, n])`: x
/// and W in bf16, sums in f32, y and r in bf16 or f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub k: usize,
    pub n: usize,
    pub out: DType,
}

/// The library's description of a shape. To it our rows are columns: `y^T = (W^T)^T x^T`, all three
/// column-major.
pub(crate) struct Layout {
    library: Rc<CublasLt>,
    operation: sys::cublasLtMatmulDesc_t,
    w: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    y: sys::cublasLtMatrixLayout_t,
}

impl Layout {
    pub(crate) fn new(library: &Rc<CublasLt>, shape: Shape) -> Result<Self> {
        const WHAT: &str = "describing a matrix product";
        let bf16 = sys::cudaDataType_t::CUDA_R_16BF;
        let f32 = sys::cudaDataType_t::CUDA_R_32F;
        let Shape { k, n, out } = shape;
        let out = if out == DType::F32 { f32 } else { bf16 };
        let matrix = |dtype, rows: usize, cols: usize| {
            doing(WHAT, result::create_matrix_layout(dtype, rows as u64, cols as u64, rows as i64))
        };
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let layout = Self {
            library: Rc::clone(library),
            operation: doing(WHAT, result::create_matmul_desc(compute, f32))?,
            w: matrix(bf16, k, n)?,
            x: matrix(bf16, k, 1)?,
            y: matrix(out, n, 1)?,
        };
        // `CUBLAS_OP_T` of an enum that the bindings leave out.
        let transposed = 1_i32;
        let which = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the description is alive, the attribute has this type.
        let set = unsafe {
            result::set_matmul_desc_attribute(
                layout.operation,
                which,
                at(&transposed),
                size_of_val(&transposed),
            )
        };
        doing(WHAT, set)?;
        Ok(layout)
    }

    /// Sets the number of rows.
    fn resize(&self, rows: usize) -> Result<()> {
        let which = sys::cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_COLS;
        for layout in [self.x, self.y] {
            let rows = rows as u64;
            // SAFETY: the layout is alive, the attribute has this type.
            let set =
                unsafe { result::set_matrix_layout_attribute(layout, which, at(&rows), size_of_val(&rows)) };
            doing("describing a matrix product", set)?;
        }
        Ok(())
    }

    /// Algorithms for `rows` rows, likeliest to be fast first; none if the library does not take
    /// the shape.
    ///
    /// Partial sums are added in f32 or not at all: never in the dtype of y, never in an order that
    /// changes from run to run.
    pub(crate) fn algorithms(&self, rows: usize) -> Result<Vec<Algorithm>> {
        const WHAT: &str = "asking cuBLASLt for algorithms";
        type Which = sys::cublasLtMatmulPreferenceAttributes_t;
        self.resize(rows)?;
        let preference = Preference(doing(WHAT, result::create_matmul_pref())?);
        let scheme = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        // SAFETY: the preference is alive, the attributes have these types.
        let set = unsafe {
            let (bytes, schemes) = (
                Which::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                Which::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            );
            let most = WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference.0, bytes, at(&most), size_of_val(&most)).and_then(
                |()| {
                    result::set_matmul_pref_attribute(
                        preference.0,
                        schemes,
                        at(&scheme),
                        size_of_val(&scheme),
                    )
                },
            )
        };
        doing(WHAT, set)?;
        let mut found = [NO_RESULT; MOST_ALGORITHMS];
        let mut num = 0;
        // SAFETY: everything described is alive; as many results are written as there is room for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.library.handle,
                self.operation,
                self.w,
                self.x,
                self.y,
                self.y,
                preference.0,
                MOST_ALGORITHMS as i32,
                found.as_mut_ptr(),
                &raw mut num,
            )
        };
        match status {
            sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS => {}
            sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED => return Ok(Vec::new()),
            other => doing(WHAT, other.result())?,
        }
        let good = |one: &&sys::cublasLtMatmulHeuristicResult_t| one.state.result().is_ok();
        Ok(found[..num as usize].iter().filter(good).map(|one| one.algo).collect())
    }

    /// Whether `algorithm` runs `rows` rows in the workspace.
    pub(crate) fn takes(&self, algorithm: &Algorithm, rows: usize) -> Result<bool> {
        self.resize(rows)?;
        let mut found = NO_RESULT;
        // SAFETY: everything described is alive; writes one result.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.library.handle,
                self.operation,
                self.w,
                self.x,
                self.y,
                self.y,
                algorithm,
                &raw mut found,
            )
        };
        Ok(status.result().is_ok() && found.workspaceSize <= WORKSPACE_BYTES)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        unsafe {
            let _ = result::destroy_matmul_desc(self.operation);
            for layout in [self.w, self.x, self.y] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

/// A product of one shape, computed one way.
pub(crate) struct Product {
    pub layout: Rc<Layout>,
    pub algorithm: Algorithm,
}

impl std::fmt::Debug for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Product").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Product {
    /// Puts it on the stream. `words` are the addresses of x, W, r (0 adds nothing), y and a
    /// workspace of [`WORKSPACE_BYTES`], and the number of rows.
    pub(crate) fn run(&self, device: &Device, words: &[u64]) -> Result<()> {
        let &[x, w, r, y, workspace, rows] = words else { unreachable!("as `lower::vendor` makes them") };
        self.layout.resize(rows as usize)?;
        let one = 1.0_f32;
        let (share, added) = if r == 0 { (0.0_f32, y) } else { (1.0, r) };
        let Layout { library, operation, w: of_w, x: of_x, y: of_y } = &*self.layout;
        // SAFETY: the descriptions are alive; the addresses are those of live buffers that hold the
        // extents that the step was checked against; the factors are read before the call returns.
        let done = unsafe {
            result::matmul(
                library.handle,
                *operation,
                at(&one),
                at(&share),
                w as *const c_void,
                *of_w,
                x as *const c_void,
                *of_x,
                added as *const c_void,
                *of_y,
                y as *mut c_void,
                *of_y,
                &raw const self.algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                device.stream.cu_stream().cast(),
            )
        };
        doing("multiplying by cuBLASLt", done)
    }
}

/// What a search is told, destroyed when dropped.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by the caller, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

const NO_RESULT: sys::cublasLtMatmulHeuristicResult_t = sys::cublasLtMatmulHeuristicResult_t {
    algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
    workspaceSize: 0,
    state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_INITIALIZED,
    wavesCount: 0.0,
    reserved: [0; 4],
};

/// The address of an attribute's value.
const fn at<T>(value: &T) -> *const c_void {
    std::ptr::from_ref(value).cast()
}

fn doing<T>(what: &'static str, result: std::result::Result<T, CublasError>) -> Result<T> {
    result.map_err(|error| CudaError::Driver { what, cause: format!("{:?}", error.0) })
}
