//! Compiled kernels on a device, by name.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::rc::Rc;
use std::sync::Arc;

use cudarc::driver::{result, sys};
use object::LittleEndian;
use object::elf::STT_FUNC;
use object::read::elf::{ElfFile64, Sym as _};

use crate::compile::{Images, Target, load_or_anew};
use crate::device::{Device, DeviceFacts};
use crate::error::{CudaError, Doing, Result};

/// Every kernel, loaded.
pub(crate) struct Modules {
    device: Arc<Device>,
    target: Target,
    loaded: Vec<sys::CUmodule>,
    /// The module of each kernel, by place in `loaded`.
    names: HashMap<String, usize>,
    found: RefCell<HashMap<String, Function>>,
    /// Dynamic shared memory that kernels were allowed, in bytes.
    allowed: RefCell<HashMap<String, u32>>,
}

/// One kernel: valid as long as its [`Modules`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub name: Rc<str>,
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
            for name in names(&image, target)? {
                modules.names.entry(name).or_insert(modules.loaded.len());
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
        let module = self.loaded[*self.names.get(name).ok_or_else(missing)?];
        // SAFETY: the module is loaded.
        let found = unsafe { result::module::get_function(module, CString::new(name).unwrap_or_default()) };
        let starts_early = self.target.waits() && self.facts().starts_early();
        let function = Function { name: name.into(), handle: found.doing("finding a kernel")?, starts_early };
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

/// Names of the kernels in an image: those that the symbol table of machine code marks as entries,
/// or the entries of PTX. The driver is not asked, because a sanitizer counts a wrong guess as an
/// error.
fn names(image: &[u8], target: Target) -> Result<Vec<String>> {
    match target {
        Target::Cubin(_) => entries(image)
            .map_err(|cause| CudaError::Driver { what: "reading the symbols of a kernel image", cause }),
        Target::Ptx(_) => {
            let text = String::from_utf8_lossy(image);
            let entries = text.split(".entry ").skip(1);
            Ok(entries.filter_map(|entry| Some(entry.split_once('(')?.0.trim().to_owned())).collect())
        }
    }
}

/// `STO_CUDA_ENTRY`: the bit of a symbol's `st_other` that marks a `__global__` function.
const CUDA_ENTRY: u8 = 0x10;

/// The entries in the symbol table of an ELF file.
///
/// Errors if the file is damaged or has no such table.
fn entries(image: &[u8]) -> Result<Vec<String>, String> {
    let file = ElfFile64::<LittleEndian>::parse(image).map_err(|error| error.to_string())?;
    let symbols = file.elf_symbol_table();
    if symbols.is_empty() {
        return Err("it has no symbol table".into());
    }
    let kernels = symbols.iter().filter(|s| s.st_type() == STT_FUNC && s.st_other().0 & CUDA_ENTRY != 0);
    kernels
        .map(|symbol| {
            let name = symbol.name(LittleEndian, symbols.strings()).map_err(|error| error.to_string())?;
            Ok(String::from_utf8_lossy(name).into_owned())
        })
        .collect()
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

    /// An ELF file with these symbols: name and `st_other`. Its sections are a symbol table, if
    /// there is a symbol, and the names of symbols and sections.
    fn elf(symbols: &[(&str, u8)]) -> Vec<u8> {
        const HEADER: usize = 64;
        let mut strings = b"\0.symtab\0.strtab\0".to_vec();
        let mut table = vec![0; 24];
        for (name, other) in symbols {
            table.extend((strings.len() as u32).to_le_bytes());
            // STB_GLOBAL and STT_FUNC, section 1, no address, no size.
            table.extend([0x12, *other, 1, 0]);
            table.extend([0; 16]);
            strings.extend(name.bytes().chain([0]));
        }
        let strings_at = HEADER + table.len();
        let sections_at = strings_at + strings.len();
        // Name, type, offset, size, link, entry size.
        let section = |name: u32, kind: u32, at: usize, len: usize, link: u32, entry: u64| {
            let mut section = [name, kind].map(u32::to_le_bytes).concat();
            section.extend([0, 0, at as u64, len as u64].map(u64::to_le_bytes).concat());
            section.extend([link, 1].map(u32::to_le_bytes).concat());
            section.extend([1, entry].map(u64::to_le_bytes).concat());
            section
        };
        let kind = if symbols.is_empty() { 1 } else { 2 };
        let sections = [
            vec![0; 64],
            section(1, kind, HEADER, table.len(), 2, 24),
            section(9, 3, strings_at, strings.len(), 0, 0),
        ];
        let mut image = b"\x7fELF\x02\x01\x01".to_vec();
        image.resize(16, 0);
        image.extend([2, 190].map(u16::to_le_bytes).concat());
        image.extend(1_u32.to_le_bytes());
        image.extend([0, 0, sections_at as u64].map(u64::to_le_bytes).concat());
        image.extend(0_u32.to_le_bytes());
        image.extend([64, 56, 0, 64, 3, 2_u16].map(u16::to_le_bytes).concat());
        [image, table, strings, sections.concat()].concat()
    }

    #[test]
    fn kernels_are_the_entries_of_an_image() {
        let cubin = elf(&[("embed", CUDA_ENTRY), ("helper", 0), ("rms_norm_f32", CUDA_ENTRY | 3)]);
        assert_eq!(names(&cubin, Target::Cubin(90)).unwrap(), ["embed", "rms_norm_f32"]);
        let ptx = b".version 9.0\n.visible .entry embed(\n.param .u64 a)\n{ }\n.visible .entry add (\n)\0";
        assert_eq!(names(ptx, Target::Ptx(80)).unwrap(), ["embed", "add"]);
    }

    #[test]
    fn a_damaged_image_or_one_without_symbols_is_an_error() {
        let whole = elf(&[("embed", CUDA_ENTRY)]);
        for len in 0..whole.len() {
            assert!(names(&whole[..len], Target::Cubin(90)).is_err(), "{len} bytes");
        }
        let error = names(&elf(&[]), Target::Cubin(90)).unwrap_err().to_string();
        assert!(error.contains("no symbol table"), "{error}");
    }
}
