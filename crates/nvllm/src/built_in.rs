//! What a build has in it: the cargo features, and nowhere else are they named. The demo model, and the CUDA backend.

use anyhow::{Result, bail};
use nvllm_core::Backend;
use nvllm_engine::Model;

use crate::flags::DeviceArgs;

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
/// If there is no driver or GPU, or neither kernels for it nor a compiler: what is missing and what to install.
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

/// What was found of CUDA, one line each; what is missing says what to install.
#[cfg(feature = "cuda")]
pub(crate) fn cuda_findings() -> Vec<String> {
    use nvllm_cuda::compile::{Archive, Nvrtc, Target};
    let mut lines = Vec::new();
    match nvllm_cuda::count_devices() {
        Ok(count) => {
            for facts in (0..count).filter_map(|gpu| nvllm_cuda::device_facts(gpu).ok()) {
                let (major, minor) = facts.capability;
                let driver = (facts.driver / 1000, facts.driver % 1000 / 10);
                lines.push(format!(
                    "cuda      GPU {}: {}, compute capability {major}.{minor} ({}), {} bytes of memory, driver for CUDA {}.{}",
                    facts.ordinal,
                    facts.name,
                    Target::of_device(facts.capability).name(),
                    facts.memory_bytes,
                    driver.0,
                    driver.1,
                ));
            }
        }
        Err(missing) => lines.push(format!("cuda      {missing}")),
    }
    lines.push(match KERNELS.map(Archive::open) {
        None => "kernels   not in this build: NVRTC compiles them".into(),
        Some(None) => "kernels   in this build, and damaged: build it again".into(),
        Some(Some(archive)) => {
            let targets = Target::ALL.into_iter().filter(|&target| archive.holds(target));
            let names: Vec<_> = targets.map(Target::name).collect();
            let (major, minor) = archive.version();
            let names = if names.is_empty() { "made from other sources".into() } else { names.join(", ") };
            format!("kernels   in this build: {names} (CUDA {major}.{minor}, {} bytes)", archive.num_bytes())
        }
    });
    lines.push(match Nvrtc::load(None) {
        Ok(nvrtc) => format!("nvrtc     {}.{}", nvrtc.version().0, nvrtc.version().1),
        Err(missing) => format!("nvrtc     {missing}"),
    });
    lines.push(match nvllm_cuda::cublaslt_version() {
        Some(version) => format!("cublaslt  {}.{}", version / 10_000, version % 10_000 / 100),
        None => {
            "cublaslt  not found, and not needed: --numerics fast can use it (PyPI: nvidia-cublas)".into()
        }
    });
    lines
}

/// What was found of CUDA.
#[cfg(not(feature = "cuda"))]
pub(crate) fn cuda_findings() -> Vec<String> {
    vec!["cuda      not in this build: build with --features cuda".into()]
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

/// The CUDA backend, if this build has one.
#[cfg(not(feature = "cuda"))]
pub(crate) fn cuda(_: &DeviceArgs) -> Result<Box<dyn Backend>> {
    bail!("this build has no CUDA backend: build with --features cuda, or use --backend cpu")
}
