//! Where to compute.

use clap::{Args, ValueEnum};

use super::number;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    /// The fastest that this machine has.
    Auto,
    /// The CPU, with SIMD and threads.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// A GPU of any vendor, through Vulkan, Metal or DX12.
    Wgpu,
    /// The scalar reference: slow, and right.
    Reference,
}

/// A kind of GPU that can be planned for where none is.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceProfile {
    /// NVIDIA H100 SXM, 80 GB.
    H100,
    /// NVIDIA H200 SXM, 141 GB.
    H200,
}

/// Where to compute.
#[derive(Args, Clone)]
pub(crate) struct DeviceArgs {
    /// Where to compute.
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: BackendName,
    /// Which GPU of the CUDA backend, as the driver numbers them; the first if not given.
    #[arg(long, value_name = "N")]
    pub gpu: Option<usize>,
    /// Which adapter of the wgpu backend, by its number in `nvllm doctor` or a part of its name;
    /// the first GPU if not given.
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Threads of the CPU backend; as many as the process may use if not given.
    #[arg(long, value_parser = number::threads)]
    pub threads: Option<usize>,
    /// Pin each thread of the CPU backend to a core.
    #[arg(long)]
    pub pin: bool,
}
