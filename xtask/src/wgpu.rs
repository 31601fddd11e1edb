//! The wgpu backend, if this build has it: the bundle for CUDA has no room for it.

use anyhow::Result;
use nvllm_core::Backend;

/// The backend on the adapter of that number or name, or on the first GPU.
#[cfg(feature = "wgpu")]
pub(crate) fn open(adapter: Option<&str>) -> Result<Box<dyn Backend>> {
    use anyhow::Context as _;
    use nvllm_wgpu::{WgpuBackend, WgpuOptions};
    let options = WgpuOptions { adapter: adapter.map(str::to_owned), ..WgpuOptions::default() };
    Ok(Box::new(WgpuBackend::new(&options).context("--backend wgpu")?))
}

/// The backend: this build has none.
#[cfg(not(feature = "wgpu"))]
pub(crate) fn open(_: Option<&str>) -> Result<Box<dyn Backend>> {
    anyhow::bail!(
        "--backend wgpu: this build has no wgpu backend; `cargo xtask bundle --wgpu` makes one that has"
    )
}
