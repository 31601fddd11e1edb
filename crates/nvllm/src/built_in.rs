//! What a build has in it: the cargo features, and nowhere else are they named. The demo model, the
//! CUDA backend and the wgpu backend.

use anyhow::{Result, bail};
use nvllm_core::Backend;
use nvllm_engine::Model;

use crate::flags::{DeviceArgs, DeviceProfile};

/// What a model is called when none was named.
pub(crate) const NAME: &str = "nvllm-tiny";

/// Whether this build has the embedded model.
pub(crate) const HAS_MODEL: bool = cfg!(feature = "embedded-model");

/// The embedded model, if this build has one.
#[cfg(feature = "embedded-model")]
pub(crate) fn open() -> Result<Model> {
    use bytes::Bytes;
    use nvllm_engine::ModelBytes;

    macro_rules! file {
        ($name:literal) => {
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nvllm-tiny/", $name))
        };
    }
    let files = ModelBytes {
        name: NAME,
        config: file!("config.json"),
        generation_config: file!("generation_config.json"),
        tokenizer: file!("tokenizer.json"),
        tokenizer_config: file!("tokenizer_config.json"),
        weights: Bytes::from_static(weights()),
    };
    match Model::from_bytes(&files) {
        Ok(model) => Ok(model),
        Err(e) => bail!("the embedded model is damaged: {e}"),
    }
}

/// The embedded model, if this build has one.
#[cfg(not(feature = "embedded-model"))]
pub(crate) fn open() -> Result<Model> {
    bail!("this build has no embedded model {NAME}: name one with --model (a directory or a hub id)")
}

/// The embedded model's weights' file.
#[cfg(feature = "embedded-model")]
pub(crate) fn weights() -> &'static [u8] {
    /// Weights are read in place, as 16-bit numbers and in vectors.
    #[repr(C, align(64))]
    struct Aligned<T: ?Sized>(T);

    static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/nvllm-tiny/model.safetensors"
    )));
    &WEIGHTS.0
}

/// The embedded model's weights' file: this build has none.
#[cfg(not(feature = "embedded-model"))]
pub(crate) fn weights() -> &'static [u8] {
    &[]
}

/// Machine code of the CUDA kernels, if this build has it.
#[cfg(feature = "embedded-kernels")]
const KERNELS: Option<&[u8]> =
    Some(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/kernels/archive")));

/// Machine code of the CUDA kernels: this build has none.
#[cfg(all(feature = "cuda", not(feature = "embedded-kernels")))]
const KERNELS: Option<&[u8]> = None;

/// The CUDA backend on the GPU that the flags name.
///
/// # Errors
/// If there is no driver or GPU, or neither kernels for it nor a compiler: what is missing and what
/// to install.
#[cfg(feature = "cuda")]
pub(crate) fn cuda(args: &DeviceArgs) -> Result<Box<dyn Backend>> {
    use nvllm_cuda::{CudaBackend, CudaOptions};
    let options = CudaOptions {
        gpu: args.gpu.unwrap_or(0),
        cache_dir: crate::environment::cache_dir().map(|dir| dir.join("kernels")),
        kernels: KERNELS,
        ..CudaOptions::default()
    };
    Ok(Box::new(CudaBackend::new(&options)?))
}

/// A backend that plans for a GPU of that kind.
///
/// # Errors
/// If this build has no CUDA backend.
#[cfg(feature = "cuda")]
#[allow(clippy::unnecessary_wraps, reason = "a build without the CUDA backend fails")]
pub(crate) fn cuda_profile(profile: DeviceProfile) -> Result<Box<dyn Backend>> {
    use nvllm_cuda::DeviceProfile as Cuda;
    Ok(Box::new(match profile {
        DeviceProfile::H100 => Cuda::H100,
        DeviceProfile::H200 => Cuda::H200,
    }))
}

/// What was found of CUDA.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct CudaFindings {
    /// What the driver shows.
    pub gpus: Vec<Gpu>,
    /// Why there is none.
    pub missing: Option<String>,
    /// What a GPU's kernels come from; nothing is looked for without a GPU.
    pub kernels: Option<String>,
    /// The vendor's library that `--numerics fast` can use.
    pub cublaslt: Option<String>,
}

/// A GPU as its driver shows it.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Gpu {
    pub ordinal: usize,
    pub name: String,
    /// Compute capability: `9.0`.
    pub capability: String,
    /// What kernels are compiled for: `sm_90a`.
    pub target: String,
    pub memory_bytes: usize,
    /// The CUDA version that the driver supports.
    pub driver: String,
}

/// What was found of CUDA.
#[cfg(feature = "cuda")]
pub(crate) fn cuda_findings() -> CudaFindings {
    use nvllm_cuda::compile::Target;
    let count = match nvllm_cuda::count_devices() {
        Ok(count) => count,
        Err(missing) => {
            return CudaFindings { missing: Some(missing.to_string()), ..CudaFindings::default() };
        }
    };
    let gpu = |facts: nvllm_cuda::DeviceFacts| Gpu {
        ordinal: facts.ordinal,
        name: facts.name,
        capability: format!("{}.{}", facts.capability.0, facts.capability.1),
        target: Target::of_device(facts.capability).name(),
        memory_bytes: facts.memory_bytes,
        driver: format!("{}.{}", facts.driver / 1000, facts.driver % 1000 / 10),
    };
    CudaFindings {
        gpus: (0..count).filter_map(|at| nvllm_cuda::device_facts(at).ok()).map(gpu).collect(),
        missing: None,
        kernels: Some(kernels()),
        cublaslt: Some(match nvllm_cuda::cublaslt_version() {
            Some(version) => format!("{}.{}", version / 10_000, version % 10_000 / 100),
            None => "not found, and not needed: --numerics fast can use it (PyPI: nvidia-cublas)".into(),
        }),
    }
}

/// What a GPU's kernels come from: this build, or a compiler on this machine.
#[cfg(feature = "cuda")]
fn kernels() -> String {
    use nvllm_cuda::compile::{Archive, Nvrtc, Target};
    let compiler = || match Nvrtc::load(None) {
        Ok(nvrtc) => format!("NVRTC {}.{} compiles them", nvrtc.version().0, nvrtc.version().1),
        Err(missing) => missing.to_string(),
    };
    match KERNELS.map(Archive::open) {
        None => format!("not in this build; {}", compiler()),
        Some(None) => format!("in this build, and damaged; {}", compiler()),
        Some(Some(archive)) => {
            let targets = Target::ALL.into_iter().filter(|&target| archive.holds(target));
            let names: Vec<_> = targets.map(Target::name).collect();
            let (major, minor) = archive.version();
            if names.is_empty() {
                return format!("in this build, made from other sources; {}", compiler());
            }
            let (names, size) = (names.join(", "), crate::human::bytes(archive.num_bytes()));
            format!("in this build: {names} (CUDA {major}.{minor}, {size})")
        }
    }
}

/// What was found of CUDA.
#[cfg(not(feature = "cuda"))]
pub(crate) fn cuda_findings() -> CudaFindings {
    let missing = Some("not in this build: build with --features cuda".into());
    CudaFindings { missing, ..CudaFindings::default() }
}

/// Whether a driver shows a GPU.
#[cfg(feature = "cuda")]
pub(crate) fn gpu_answers() -> bool {
    nvllm_cuda::count_devices().is_ok()
}

/// Whether a driver shows a GPU.
#[cfg(not(feature = "cuda"))]
pub(crate) fn gpu_answers() -> bool {
    false
}

/// A backend that plans for a GPU of that kind, if this build has the CUDA backend.
#[cfg(not(feature = "cuda"))]
pub(crate) fn cuda_profile(_: DeviceProfile) -> Result<Box<dyn Backend>> {
    bail!("this build has no CUDA backend, which plans for GPUs: build with --features cuda")
}

/// The CUDA backend, if this build has one.
#[cfg(not(feature = "cuda"))]
pub(crate) fn cuda(_: &DeviceArgs) -> Result<Box<dyn Backend>> {
    bail!("this build has no CUDA backend: build with --features cuda, or use --backend cpu")
}

/// The wgpu backend on the adapter that the flags name.
///
/// # Errors
/// If there is no adapter, or none of that name.
#[cfg(feature = "wgpu")]
pub(crate) fn wgpu(args: &DeviceArgs) -> Result<Box<dyn Backend>> {
    use nvllm_wgpu::{WgpuBackend, WgpuOptions};
    let options = WgpuOptions {
        adapter: args.adapter.clone(),
        cache_dir: crate::environment::cache_dir().map(|dir| dir.join("shaders")),
        ..WgpuOptions::default()
    };
    Ok(Box::new(WgpuBackend::new(&options)?))
}

/// The wgpu backend, if this build has one.
#[cfg(not(feature = "wgpu"))]
pub(crate) fn wgpu(_: &DeviceArgs) -> Result<Box<dyn Backend>> {
    bail!("this build has no wgpu backend: build with --features wgpu, or use --backend cpu")
}

/// A device as the wgpu backend can choose it.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Adapter {
    /// By which `--adapter` can name it.
    pub index: usize,
    pub name: String,
    /// Vulkan, Metal or DX12.
    pub api: &'static str,
    pub kind: &'static str,
    /// Whether it computes on the host's processor.
    pub is_cpu: bool,
    pub driver: String,
    pub memory_bytes: usize,
    /// Of one buffer as a shader sees it: larger weights are split.
    pub binding_bytes: usize,
    /// The smallest and the largest subgroup.
    pub subgroup: [u32; 2],
    pub features: Vec<&'static str>,
}

/// All adapters; none in a build without the wgpu backend.
pub(crate) fn adapters() -> Vec<Adapter> {
    #[cfg(feature = "wgpu")]
    let all = nvllm_wgpu::adapters().into_iter().map(|facts| Adapter {
        index: facts.index,
        name: facts.name,
        api: facts.api,
        kind: facts.kind,
        is_cpu: facts.is_cpu,
        driver: facts.driver,
        memory_bytes: facts.memory_bytes,
        binding_bytes: facts.max_binding,
        subgroup: facts.subgroup,
        features: facts.features,
    });
    #[cfg(not(feature = "wgpu"))]
    let all = std::iter::empty();
    all.collect()
}
