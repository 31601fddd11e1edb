//! Compiled kernels on a device, by name.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::rc::Rc;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use crate::compile::{Entry, Images, Target, USUAL_THREADS, entries, load_or_anew};
use crate::device::{Device, DeviceFacts};
use crate::error::{CudaError, Doing, Result};

/// Every kernel, loaded.
pub(crate) struct Modules {
    device: Arc<Device>,
    target: Target,
    loaded: Vec<sys::CUmodule>,
    /// Of each kernel its module, by place in `loaded`, and its threads.
    names: HashMap<String, (usize, Option<u32>)>,
    found: RefCell<HashMap<String, Function>>,
    /// Dynamic shared memory that kernels were allowed, in bytes.
    allowed: RefCell<HashMap<String, u32>>,
}

/// One kernel: valid as long as its [`Modules`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub name: Rc<str>,
    pub handle: sys::CUfunction,
    /// Threads of a block: those of its `__launch_bounds__`, or [`USUAL_THREADS`].
    pub threads: u32,
    /// Whether it may be launched before the kernel before it has ended, if its launch says so.
    pub starts_early: bool,
}

/// A kernel by its name, and the dynamic shared memory of its blocks, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SharedKernel {
    pub name: String,
    pub shared: u32,
}

impl SharedKernel {
    pub(crate) const fn new(name: String, shared: usize) -> Self {
        Self { name, shared: shared as u32 }
    }
}

impl Modules {
    /// Loads the device's own machine code, or, where there is none to be had, PTX that the driver
    /// translates.
    pub(crate) fn load(device: &Arc<Device>, images: &Images) -> Result<Self> {
        let [own, ptx] = Target::for_device(device.facts.capability);
        let error = match Self::load_for(device, images, own) {
            Ok(modules) => return Ok(modules),
            Err(error) => error,
        };
        let Ok(modules) = Self::load_for(device, images, ptx) else { return Err(error) };
        tracing::warn!(%error, "no kernels for {}: the driver translates {}", own.name(), ptx.name());
        Ok(modules)
    }

    fn load_for(device: &Arc<Device>, images: &Images, target: Target) -> Result<Self> {
        let mut modules = Self {
            device: Arc::clone(device),
            target,
            loaded: Vec::new(),
            names: HashMap::new(),
            found: RefCell::default(),
            allowed: RefCell::default(),
        };
        let all = images.all(target)?;
        device.bind()?;
        for (source, image) in all {
            let load = |image: &[u8]| {
                // SAFETY: the image is whole, as NVRTC made it: a CUBIN, or PTX with the zero that
                // ends it.
                unsafe { result::module::load_data(image.as_ptr().cast()) }.doing("loading a kernel")
            };
            let module = load_or_anew(&image, load, || images.anew(source, target))?;
            let found = entries(&image, target).map_err(|cause| CudaError::Driver {
                what: "reading the symbols of a kernel image",
                cause,
            })?;
            for Entry { name, threads } in found {
                modules.names.entry(name).or_insert((modules.loaded.len(), threads));
            }
            modules.loaded.push(module);
        }
        Ok(modules)
    }

    /// The kernel called `name`.
    pub(crate) fn function(&self, name: &str) -> Result<Function> {
        if let Some(function) = self.found.borrow().get(name) {
            return Ok(function.clone());
        }
        let missing = || CudaError::Driver {
            what: "finding a kernel",
            cause: format!("there is none called `{name}`"),
        };
        let (module, threads) = *self.names.get(name).ok_or_else(missing)?;
        let name_of_driver = CString::new(name).unwrap_or_default();
        // SAFETY: the module is loaded.
        let found = unsafe { result::module::get_function(self.loaded[module], name_of_driver) };
        let function = Function {
            name: name.into(),
            handle: found.doing("finding a kernel")?,
            threads: threads.unwrap_or(USUAL_THREADS),
            starts_early: self.target.waits() && self.facts().starts_early(),
        };
        self.found.borrow_mut().insert(name.into(), function.clone());
        Ok(function)
    }

    /// What the device says of itself.
    pub(crate) fn facts(&self) -> &DeviceFacts {
        &self.device.facts
    }

    /// What the kernels were compiled for.
    pub(crate) const fn target(&self) -> Target {
        self.target
    }

    /// A kernel, allowed the shared memory of its blocks.
    pub(crate) fn shared_function(&self, kernel: &SharedKernel) -> Result<Function> {
        self.function_with(&kernel.name, kernel.shared)
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
            unsafe { sys::cuFuncSetAttribute(function.handle, which, shared as i32) }
                .result()
                .doing("giving a kernel shared memory")?;
            *most = shared;
        }
        Ok(function)
    }

    /// Blocks of a kernel that one multiprocessor holds at once, at least 1.
    pub(crate) fn blocks_at_once(&self, kernel: &SharedKernel) -> Result<usize> {
        let function = self.shared_function(kernel)?;
        let mut num = 0;
        // SAFETY: the module is loaded; writes one int.
        unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &raw mut num,
                function.handle,
                function.threads as i32,
                kernel.shared as usize,
            )
        }
        .result()
        .doing("asking how many blocks fit")?;
        Ok(num.max(1) as usize)
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        let _ = self.device.bind();
        for module in &self.loaded {
            // SAFETY: loaded in `load`, unloaded once; every launch has been waited for by the
            // executable's drop.
            let _ = unsafe { result::module::unload(*module) };
        }
    }
}
