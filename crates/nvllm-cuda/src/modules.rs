//! Compiled kernels on a device, by name.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use crate::compile::{Images, Target, load_or_anew};
use crate::device::{Device, DeviceFacts};
use crate::error::{CudaError, Doing, Result};

/// Every kernel, loaded.
pub(crate) struct Modules {
    device: Arc<Device>,
    target: Target,
    loaded: Vec<sys::CUmodule>,
    /// The module of each kernel, by place in `loaded`. Other names that stand in an image are here
    /// too.
    names: HashMap<String, usize>,
    found: RefCell<HashMap<String, Function>>,
    /// Dynamic shared memory that kernels were allowed, in bytes.
    allowed: RefCell<HashMap<String, u32>>,
}

/// One kernel: valid as long as its [`Modules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub handle: sys::CUfunction,
    /// Whether it may be launched before the kernel before it has ended, if its launch says so.
    pub starts_early: bool,
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
            for name in names(&image, target) {
                modules.names.entry(name).or_insert(modules.loaded.len());
            }
            modules.loaded.push(module);
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
        let module = self.loaded[*self.names.get(name).ok_or_else(missing)?];
        // SAFETY: the module is loaded.
        let found = unsafe { result::module::get_function(module, CString::new(name).unwrap_or_default()) };
        let starts_early = self.target.waits() && self.facts().starts_early();
        let function = Function { handle: found.doing("finding a kernel")?, starts_early };
        self.found.borrow_mut().insert(name.into(), function);
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
    pub(crate) fn blocks_at_once(&self, name: &str, block: u32, shared: u32) -> Result<usize> {
        let function = self.function_with(name, shared)?;
        let mut num = 0;
        // SAFETY: the module is loaded; writes one int.
        unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &raw mut num,
                function.handle,
                block as i32,
                shared as usize,
            )
        }
        .result()
        .doing("asking how many blocks fit")?;
        Ok(num.max(1) as usize)
    }
}

/// Names that may be kernels' in an image: what stands between zeros in machine code, whose string
/// tables hold the kernels' names among others, and the entries of PTX. The driver is not asked,
/// because a sanitizer counts a wrong guess as an error.
fn names(image: &[u8], target: Target) -> Vec<String> {
    let is_name = |text: &&[u8]| {
        text.first().is_some_and(|c| !c.is_ascii_digit())
            && text.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_')
    };
    let own = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    match target {
        Target::Cubin(_) => image.split(|byte| *byte == 0).filter(is_name).map(own).collect(),
        Target::Ptx(_) => {
            let text = String::from_utf8_lossy(image);
            let entries = text.split(".entry ").skip(1);
            entries.filter_map(|entry| Some(entry.split_once('(')?.0.trim().to_owned())).collect()
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_by_name() {
        let cubin = b"\x7fELF\0.text.embed\0embed\0\0rms_norm_f32\0\x90\xff\0";
        assert_eq!(names(cubin, Target::Cubin(90)), ["embed", "rms_norm_f32"]);
        let ptx = b".version 9.0\n.visible .entry embed(\n.param .u64 a)\n{ }\n.visible .entry add (\n)\0";
        assert_eq!(names(ptx, Target::Ptx(80)), ["embed", "add"]);
    }
}
