//! Compiled kernels on a device, by name.

use std::ffi::CString;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use crate::compile::{KernelCache, Nvrtc, Source, Target, sources};
use crate::device::{Device, version};
use crate::error::{CudaError, Doing, Result};

/// Every kernel, loaded.
pub(crate) struct Modules {
    device: Arc<Device>,
    modules: Vec<(sys::CUmodule, &'static Source)>,
}

/// One kernel: valid as long as its [`Modules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Function(pub sys::CUfunction);

impl Modules {
    /// Compiles what the cache does not hold, several files at once, and loads everything.
    pub(crate) fn load(device: &Arc<Device>, nvrtc: &Nvrtc, cache: &KernelCache) -> Result<Self> {
        let target = Target::of_device(device.facts.capability);
        let (major, minor) = nvrtc.version();
        if major > device.facts.driver / 1000 {
            // Machine code of a newer toolkit's major version does not load.
            return Err(CudaError::OldDriver {
                found: version(device.facts.driver),
                needed: format!("{major}.{minor}, which the installed NVRTC belongs to,"),
            });
        }
        let images = images(nvrtc, cache, target)?;
        device.bind()?;
        let mut modules = Self { device: Arc::clone(device), modules: Vec::new() };
        for (source, image) in images {
            // SAFETY: the image is a whole CUBIN, as NVRTC made it.
            let module =
                unsafe { result::module::load_data(image.as_ptr().cast()) }.doing("loading a kernel")?;
            modules.modules.push((module, source));
        }
        Ok(modules)
    }

    /// The kernel called `name`.
    pub(crate) fn function(&self, name: &str) -> Result<Function> {
        for (module, _) in &self.modules {
            // SAFETY: the module is loaded.
            let found = unsafe {
                result::module::get_function(*module, CString::new(name).unwrap_or_default())
            };
            match found {
                Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_FOUND => {}
                found => return found.map(Function).doing("finding a kernel"),
            }
        }
        Err(CudaError::Driver { what: "finding a kernel", cause: format!("there is none called `{name}`") })
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        let _ = self.device.bind();
        for (module, _) in &self.modules {
            // SAFETY: loaded in `load`, unloaded once; every launch has been waited for by the executable's drop.
            let _ = unsafe { result::module::unload(*module) };
        }
    }
}

type Image = (&'static Source, Vec<u8>);

/// Machine code of every file that takes `target`.
fn images(nvrtc: &Nvrtc, cache: &KernelCache, target: Target) -> Result<Vec<Image>> {
    let wanted: Vec<_> = sources().iter().filter(|source| (source.takes)(target)).collect();
    let num_threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let share = wanted.len().div_ceil(num_threads).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = wanted
            .chunks(share)
            .map(|part| {
                scope.spawn(move || {
                    part.iter()
                        .map(|&source| Ok((source, cache.image(nvrtc, source, target)?)))
                        .collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        let mut images = Vec::new();
        for worker in workers {
            images.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(images)
    })
}
