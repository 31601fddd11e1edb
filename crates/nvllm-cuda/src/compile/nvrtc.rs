//! NVIDIA's run-time compiler, loaded when it is found.

use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use cudarc::nvrtc::sys;
use libloading::Library;

use super::sources::HEADERS;
use super::{Source, Target};
use crate::error::{CudaError, Result};

/// The compiler's output for one file.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Machine code, or PTX text.
    pub image: Vec<u8>,
    /// What the compiler and the assembler said: resources of each kernel among it.
    pub log: String,
}

/// A loaded NVRTC.
#[derive(Clone, Copy, Debug)]
pub struct Nvrtc {
    version: (i32, i32),
}

/// What is loaded stays loaded: the bindings open the library once a process, by its name.
static LOADED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

impl Nvrtc {
    /// Finds the library: in the folder `dir` if one is given, else where the system's loader
    /// looks.
    ///
    /// # Errors
    /// If it is not there.
    pub fn load(dir: Option<&Path>) -> Result<Self> {
        if let Some(dir) = dir {
            preload(dir)?;
        }
        // SAFETY: opens a library by name and looks at nothing in it.
        if !unsafe { sys::is_culib_present() } {
            return Err(missing(dir));
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two ints.
        let status = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
        if status != sys::nvrtcResult::NVRTC_SUCCESS {
            return Err(missing(dir));
        }
        Ok(Self { version: (major, minor) })
    }

    #[cfg(test)]
    pub(super) const fn of_version(version: (i32, i32)) -> Self {
        Self { version }
    }

    /// Major and minor version.
    pub const fn version(&self) -> (i32, i32) {
        self.version
    }

    /// The options that a file is compiled with, part of what its machine code is known by.
    pub(super) fn options(target: Target) -> Vec<String> {
        let mut options: Vec<_> =
            ["--std=c++17", "-default-device", "-lineinfo"].into_iter().map(str::to_owned).collect();
        options.push(format!("--gpu-architecture={}", target.name()));
        options.push(format!("--define-macro=TIGHT={}", u8::from(target.tight())));
        if matches!(target, Target::Cubin(_)) {
            options.push("--ptxas-options=-v".into());
        }
        options
    }

    /// Compiles one file.
    ///
    /// # Errors
    /// With the compiler's words if it refuses.
    pub fn compile(&self, source: &Source, target: Target) -> Result<Compiled> {
        let program = Program::new(source)?;
        let options: Vec<CString> = Self::options(target).into_iter().map(c_string).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: the program is alive; so are the options.
        let status = unsafe { sys::nvrtcCompileProgram(program.0, pointers.len() as i32, pointers.as_ptr()) };
        let log = program.log();
        let failed = |log: String| CudaError::Compile {
            source_file: source.path.into(),
            target: target.name(),
            log: log.trim().replace('\n', "; "),
        };
        if status != sys::nvrtcResult::NVRTC_SUCCESS {
            return Err(failed(if log.trim().is_empty() { format!("{status:?}") } else { log }));
        }
        let image = match target {
            Target::Cubin(_) => program.output(sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN),
            Target::Ptx(_) => program.output(sys::nvrtcGetPTXSize, sys::nvrtcGetPTX),
        };
        image.map(|image| Compiled { image, log: log.clone() }).ok_or_else(|| failed(log))
    }
}

fn missing(dir: Option<&Path>) -> CudaError {
    CudaError::NoNvrtc { place: dir.map(|d| format!(" in {}", d.display())).unwrap_or_default() }
}

/// Opens the libraries of `dir` for good: the bindings then find them by name. The built-in
/// functions come first, because NVRTC does not look beside itself for them.
fn preload(dir: &Path) -> Result<()> {
    let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if loaded.iter().any(|known| known == dir) {
        return Ok(());
    }
    let files = std::fs::read_dir(dir).map_err(|_| missing(Some(dir)))?;
    let mut paths: Vec<PathBuf> = files.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let begins = |path: &PathBuf, name: &str| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
    };
    paths.retain(|path| {
        begins(path, "libnvrtc") && !begins(path, "libnvrtc.alt") && !begins(path, "libnvrtc-builtins.alt")
    });
    paths.sort_by_key(|path| !begins(path, "libnvrtc-builtins"));
    for path in paths.iter().filter(|path| path.to_string_lossy().contains(".so.")) {
        // SAFETY: NVIDIA's library; its initialisers have no requirements.
        let library = unsafe { Library::new(path) }.map_err(|_| missing(Some(dir)))?;
        std::mem::forget(library);
    }
    loaded.push(dir.to_owned());
    Ok(())
}

/// Our own text and options hold no zero byte.
fn c_string(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).unwrap_or_default()
}

/// A program of the compiler, destroyed when dropped.
struct Program(sys::nvrtcProgram);

impl Program {
    fn new(source: &Source) -> Result<Self> {
        let (text, name) = (c_string(source.text), c_string(source.path));
        let bodies: Vec<_> = HEADERS.iter().map(|(_, body)| c_string(*body)).collect();
        let names: Vec<_> = HEADERS.iter().map(|(name, _)| c_string(*name)).collect();
        let body_pointers: Vec<_> = bodies.iter().map(|s| s.as_ptr()).collect();
        let name_pointers: Vec<_> = names.iter().map(|s| s.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        // SAFETY: all strings live through the call, which copies them.
        let status = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                text.as_ptr(),
                name.as_ptr(),
                HEADERS.len() as i32,
                body_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        };
        if status != sys::nvrtcResult::NVRTC_SUCCESS {
            return Err(CudaError::Driver {
                what: "starting the CUDA compiler",
                cause: format!("{status:?}"),
            });
        }
        Ok(Self(program))
    }

    fn log(&self) -> String {
        let bytes = self.output(sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog).unwrap_or_default();
        CStr::from_bytes_until_nul(&bytes).map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn output(
        &self,
        size: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
        get: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
    ) -> Option<Vec<u8>> {
        let mut len = 0;
        // SAFETY: the program is alive; writes one size.
        if unsafe { size(self.0, &raw mut len) } != sys::nvrtcResult::NVRTC_SUCCESS {
            return None;
        }
        let mut bytes = vec![0_u8; len];
        // SAFETY: the buffer has the size that was asked for.
        let status = unsafe { get(self.0, bytes.as_mut_ptr().cast()) };
        (status == sys::nvrtcResult::NVRTC_SUCCESS).then_some(bytes)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}
