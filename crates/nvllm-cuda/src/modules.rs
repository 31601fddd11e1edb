//! Compiled kernels on a device, by name.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use crate::compile::{KernelCache, Nvrtc, Target, sources};
use crate::device::{Device, DeviceFacts, version};
use crate::error::{CudaError, Doing, Result};

/// Every kernel, loaded.
pub(crate) struct Modules {
    device: Arc<Device>,
    /// With their images, whose string tables say which kernels they hold.
    loaded: Vec<(sys::CUmodule, Vec<u8>)>,
    found: RefCell<HashMap<String, Function>>,
    /// Dynamic shared memory that kernels were allowed, in bytes.
    allowed: RefCell<HashMap<String, u32>>,
}

/// One kernel: valid as long as its [`Modules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Function(pub sys::CUfunction);

impl Modules {
    /// Compiles what the cache does not hold, several files at once, and loads everything.
    pub(crate) fn load(device: &Arc<Device>, nvrtc: Nvrtc, cache: &KernelCache) -> Result<Self> {
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
        let mut modules = Self {
            device: Arc::clone(device),
            loaded: Vec::new(),
            found: RefCell::default(),
            allowed: RefCell::default(),
        };
        for image in images {
            // SAFETY: the image is a whole CUBIN, as NVRTC made it.
            let module =
                unsafe { result::module::load_data(image.as_ptr().cast()) }.doing("loading a kernel")?;
            modules.loaded.push((module, image));
        }
        Ok(modules)
    }

    /// The kernel called `name`.
    pub(crate) fn function(&self, name: &str) -> Result<Function> {
        if let Some(function) = self.found.borrow().get(name) {
            return Ok(*function);
        }
        let missing = || CudaError::Driver {
            what: "finding a kernel",
            cause: format!("there is none called `{name}`"),
        };
        let (module, _) = self.loaded.iter().find(|(_, image)| names(image, name)).ok_or_else(missing)?;
        // SAFETY: the module is loaded.
        let found = unsafe { result::module::get_function(*module, CString::new(name).unwrap_or_default()) };
        let function = Function(found.doing("finding a kernel")?);
        self.found.borrow_mut().insert(name.into(), function);
        Ok(function)
    }
}

impl Modules {
    /// What the device says of itself.
    pub(crate) fn facts(&self) -> &DeviceFacts {
        &self.device.facts
    }

    /// The kernel called `name`, allowed blocks with `shared` bytes of dynamic shared memory.
    pub(crate) fn function_with(&self, name: &str, shared: u32) -> Result<Function> {
        let function = self.function(name)?;
        let mut allowed = self.allowed.borrow_mut();
        // Every device gives 48 KB unasked.
        let most = allowed.entry(name.into()).or_insert(48 << 10);
        if shared > *most {
            let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the module is loaded.
            unsafe { sys::cuFuncSetAttribute(function.0, which, shared as i32) }
                .result()
                .doing("giving a kernel shared memory")?;
            *most = shared;
        }
        Ok(function)
    }

    /// Blocks of a kernel that one multiprocessor holds at once, at least 1.
    pub(crate) fn blocks_at_once(&self, name: &str, block: u32, shared: u32) -> Result<usize> {
        let function = self.function_with(name, shared)?;
        let mut num = 0;
        // SAFETY: the module is loaded; writes one int.
        unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &raw mut num,
                function.0,
                block as i32,
                shared as usize,
            )
        }
        .result()
        .doing("asking how many blocks fit")?;
        Ok(num.max(1) as usize)
    }
}

/// Whether a string table in `image` holds `name`.
fn names(image: &[u8], name: &str) -> bool {
    let entry = [b"\0", name.as_bytes(), b"\0"].concat();
    image.windows(entry.len()).any(|window| window == entry)
}

impl Drop for Modules {
    fn drop(&mut self) {
        let _ = self.device.bind();
        for (module, _) in &self.loaded {
            // SAFETY: loaded in `load`, unloaded once; every launch has been waited for by the executable's drop.
            let _ = unsafe { result::module::unload(*module) };
        }
    }
}

/// Machine code of every file that takes `target`.
fn images(nvrtc: Nvrtc, cache: &KernelCache, target: Target) -> Result<Vec<Vec<u8>>> {
    let wanted: Vec<_> = sources().iter().filter(|source| (source.takes)(target)).collect();
    let num_threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let share = wanted.len().div_ceil(num_threads).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = wanted
            .chunks(share)
            .map(|part| {
                scope.spawn(move || {
                    part.iter().map(|source| cache.image(nvrtc, source, target)).collect::<Result<Vec<_>>>()
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
