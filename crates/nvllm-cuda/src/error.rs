//! What can go wrong between a driver and a step.

use cudarc::driver::DriverError;
use nvllm_core::{ByteCount, CoreError};

/// An error of the CUDA backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver's library is not on this machine.
    #[error(
        "no NVIDIA driver: libcuda.so.1 was not found; install one (CUDA {needed} or newer) or use --backend cpu"
    )]
    NoDriver {
        /// The oldest CUDA version whose driver is supported.
        needed: String,
    },
    /// The driver is older than the kernels need.
    #[error("the NVIDIA driver supports CUDA {found}; CUDA {needed} or newer is needed: update the driver")]
    OldDriver {
        /// What the driver supports.
        found: String,
        /// What is needed.
        needed: String,
    },
    /// There is a driver and no device.
    #[error("the NVIDIA driver sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --backend cpu")]
    NoDevice,
    /// A device number that does not exist.
    #[error("GPU {asked} was asked for; the driver shows {count}, numbered from 0")]
    BadOrdinal {
        /// The number.
        asked: usize,
        /// Devices that there are.
        count: usize,
    },
    /// The device is older than the kernels support.
    #[error("{name} has compute capability {major}.{minor}; 8.0 (Ampere) or newer is needed")]
    OldDevice {
        /// The device.
        name: String,
        /// Its compute capability.
        major: i32,
        /// The minor number of it.
        minor: i32,
    },
    /// The run-time compiler's library is not on this machine.
    #[error(
        "the CUDA compiler NVRTC was not found{place}; it makes the kernels that are not in the build: install libnvrtc of the \
         driver's CUDA version or older (PyPI: nvidia-cuda-nvrtc)"
    )]
    NoNvrtc {
        /// Where it was looked for, if a place was named.
        place: String,
    },
    /// A kernel does not compile: a fault of this program, or a compiler that it does not know.
    #[error("{source_file} does not compile for {target}: {log}")]
    Compile {
        /// The kernel's file.
        source_file: String,
        /// The architecture.
        target: String,
        /// The compiler's words.
        log: String,
    },
    /// Device memory ran out although the plan fitted: something else took it, or it lies in
    /// pieces.
    #[error(
        "the GPU ran out of memory: {} were asked for and {} are free; end what else uses the GPU, or give a smaller \
         --kv-cache-bytes, --max-model-len or --max-num-batched-tokens",
        ByteCount(*asked),
        ByteCount(*free)
    )]
    OutOfMemory {
        /// Bytes of the allocation that failed.
        asked: usize,
        /// Bytes that the driver counts as free.
        free: usize,
    },
    /// Integers or bytes where a kernel computes: a fault of this program.
    #[error("no kernel computes with {dtype}; kernels take f32, f16 and bf16")]
    NoFloat {
        /// The element type.
        dtype: nvllm_core::DType,
    },
    /// The driver refused a call.
    #[error("{what} failed: {cause}")]
    Driver {
        /// The operation.
        what: &'static str,
        /// The driver's words.
        cause: String,
    },
}

/// Shorthand for results of this crate.
pub type Result<T, E = CudaError> = std::result::Result<T, E>;

impl From<CudaError> for CoreError {
    fn from(error: CudaError) -> Self {
        Self::Device { backend: "cuda".into(), problem: error.to_string() }
    }
}

/// Says what was being done when the driver refused.
pub(crate) trait Doing<T> {
    /// The error, with `what` was done.
    fn doing(self, what: &'static str) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, DriverError> {
    fn doing(self, what: &'static str) -> Result<T> {
        self.map_err(|error| {
            let text = error.error_string().map(|s| s.to_string_lossy().into_owned());
            CudaError::Driver { what, cause: text.unwrap_or_else(|_| format!("{:?}", error.0)) }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_message_is_whole_and_has_no_source() {
        let text = String::from;
        let all = [
            CudaError::NoDriver { needed: text("12.0") },
            CudaError::OldDriver { found: text("11.0"), needed: text("12.0") },
            CudaError::NoDevice,
            CudaError::BadOrdinal { asked: 3, count: 1 },
            CudaError::OldDevice { name: text("P100"), major: 6, minor: 0 },
            CudaError::NoNvrtc { place: String::new() },
            CudaError::Compile { source_file: text("rows.cu"), target: text("sm_90"), log: text("error") },
            CudaError::OutOfMemory { asked: 2, free: 1 },
            CudaError::Driver { what: "copying", cause: text("illegal address") },
            CudaError::NoFloat { dtype: nvllm_core::DType::U8 },
        ];
        // A new variant does not compile until it is counted here.
        let number = |error: &CudaError| match error {
            CudaError::NoDriver { .. } => 0,
            CudaError::OldDriver { .. } => 1,
            CudaError::NoDevice => 2,
            CudaError::BadOrdinal { .. } => 3,
            CudaError::OldDevice { .. } => 4,
            CudaError::NoNvrtc { .. } => 5,
            CudaError::Compile { .. } => 6,
            CudaError::OutOfMemory { .. } => 7,
            CudaError::Driver { .. } => 8,
            CudaError::NoFloat { .. } => 9,
        };
        assert!(all.iter().map(number).eq(0..10));
        for error in all {
            assert!(error.source().is_none(), "{error}");
            let text = error.to_string();
            assert_eq!(CoreError::from(error).to_string(), format!("backend `cuda`: {text}"));
        }
    }
}
