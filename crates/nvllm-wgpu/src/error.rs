//! What can go wrong between an adapter and a step.

use nvllm_core::{ByteCount, CoreError};

/// An error of the wgpu backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WgpuError {
    /// No graphics driver shows a device.
    #[error(
        "no GPU adapter was found: install a Vulkan driver (on Linux mesa-vulkan-drivers or NVIDIA's), or use --backend cpu"
    )]
    NoAdapter,
    /// There are adapters, but not the one that was named.
    #[error("adapter `{asked}` was asked for; there are: {found}")]
    UnknownAdapter {
        /// The name or index that was given.
        asked: String,
        /// Those that there are, with their indices.
        found: String,
    },
    /// The adapter lacks something that every shader needs.
    #[error("adapter {name} cannot run the shaders: {problem}")]
    Unsuitable {
        /// The adapter.
        name: String,
        /// What it lacks.
        problem: String,
    },
    /// The adapter gave no device.
    #[error("adapter {name} gave no device: {problem}; update its driver")]
    NoDevice {
        /// The adapter.
        name: String,
        /// The driver's words.
        problem: String,
    },
    /// Device memory ran out although the plan fitted, or the plan did not know how much there is.
    #[error(
        "the GPU ran out of memory: {} were asked for {what}; end what else uses the GPU, or give a smaller \
         --kv-cache-bytes, --max-model-len or --max-num-batched-tokens",
        ByteCount(*asked)
    )]
    OutOfMemory {
        /// Bytes of the allocation that failed.
        asked: usize,
        /// What it was for.
        what: &'static str,
    },
    /// A shader does not compile: a fault of this program or of the driver.
    #[error("shader {name} does not compile: {problem}")]
    Shader {
        /// The shader.
        name: String,
        /// The compiler's words.
        problem: String,
    },
    /// The device failed or is lost.
    #[error("{problem}")]
    Failed {
        /// What happened.
        problem: String,
    },
}

/// The crate's result.
pub(crate) type Result<T, E = WgpuError> = std::result::Result<T, E>;

impl From<WgpuError> for CoreError {
    fn from(error: WgpuError) -> Self {
        Self::Device { backend: "wgpu".into(), problem: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole_and_has_no_source() {
        let text = String::from;
        let all = [
            WgpuError::NoAdapter,
            WgpuError::UnknownAdapter { asked: text("7"), found: text("0 llvmpipe") },
            WgpuError::Unsuitable { name: text("old"), problem: text("it has no compute shaders") },
            WgpuError::NoDevice { name: text("old"), problem: text("limits") },
            WgpuError::OutOfMemory { asked: 1 << 30, what: "weights" },
            WgpuError::Shader { name: text("add"), problem: text("line 1") },
            WgpuError::Failed { problem: text("the device is lost") },
        ];
        for error in all {
            assert!(std::error::Error::source(&error).is_none() && !error.to_string().is_empty(), "{error}");
        }
    }
}
