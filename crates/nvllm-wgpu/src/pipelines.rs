//! Compiled shaders: each is made once in a process, from what an earlier process kept of it where
//! the API hands that out (Vulkan).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use nvllm_core::device::kept::{Hash, hash, name, seal, unseal, write_whole};
use wgpu::{
    ComputePipelineDescriptor, Device, ErrorFilter, Features, PipelineCache, PipelineCacheDescriptor,
    ShaderModuleDescriptor, ShaderSource,
};

use crate::error::{Result, WgpuError};
use crate::kernel::{Kernel, Pipeline};

/// The pipelines of one device.
pub(crate) struct Pipelines {
    device: Device,
    /// By kernel and constants.
    made: Mutex<HashMap<(&'static str, String), Pipeline>>,
    /// None where nothing can be kept.
    kept: Option<Kept>,
}

/// Pipelines on disk, one a file.
struct Kept {
    dir: PathBuf,
    /// What machine code depends on beside the shader: adapter and driver.
    device: String,
}

impl Pipelines {
    /// Pipelines of `device`, kept in `dir` if there is one. `words` are those of the adapter and
    /// of its driver.
    pub(crate) fn new(device: &Device, dir: Option<PathBuf>, words: String) -> Self {
        let dir = dir.filter(|_| device.features().contains(Features::PIPELINE_CACHE));
        let kept = dir.map(|dir| Kept { dir, device: words });
        Self { device: device.clone(), made: Mutex::default(), kept }
    }

    /// The pipeline of a kernel with these constants, made when it is first wanted.
    pub(crate) fn get(&self, kernel: &Kernel, constants: &str) -> Result<Pipeline> {
        let key = (kernel.name, constants.to_owned());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = made.get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = self.make(kernel, constants)?;
        made.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn make(&self, kernel: &Kernel, constants: &str) -> Result<Pipeline> {
        let text = kernel.text(constants);
        let key = self.kept.as_ref().map(|kept| (kept, kept.key(kernel, &text)));
        let found = key.and_then(|(kept, key)| kept.read(key));
        let cache = self.kept.as_ref().and_then(|_| self.cache(found.as_deref()));
        let scope = self.device.push_error_scope(ErrorFilter::Validation);
        let descriptor =
            ShaderModuleDescriptor { label: Some(kernel.name), source: ShaderSource::Wgsl(text) };
        // SAFETY: shaders index buffers by the extents for which these were made, which a step has
        // been checked against, and each of their loops ends.
        let module = unsafe {
            self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        };
        let layout = kernel.layout(&self.device);
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let compiled = self.device.create_compute_pipeline(&ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: false,
            },
            cache: cache.as_ref(),
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(WgpuError::Shader { name: kernel.name.into(), problem: error.to_string() });
        }
        // What was found grows where the driver did not take it as what is wanted.
        let known = found.map_or(0, |data| data.len());
        if let (Some((kept, key)), Some(data)) = (key, cache.and_then(|cache| cache.get_data()))
            && data.len() > known
        {
            kept.write(key, &data);
        }
        Ok(Pipeline { name: kernel.name, compiled, layout })
    }

    /// A cache with `data` in it, or an empty one where the driver does not take these.
    fn cache(&self, data: Option<&[u8]>) -> Option<PipelineCache> {
        let make = |data| {
            let scope = self.device.push_error_scope(ErrorFilter::Validation);
            let descriptor = PipelineCacheDescriptor { label: None, data, fallback: true };
            // SAFETY: `data` came from such a cache of this adapter under this driver: the hash
            // that a file begins with is that of its content, and the content names both.
            let cache = unsafe { self.device.create_pipeline_cache(&descriptor) };
            pollster::block_on(scope.pop()).map_or(Ok(cache), Err)
        };
        let made = make(data).or_else(|error| {
            tracing::debug!(%error, "a kept pipeline is not taken: compiling it again");
            make(None)
        });
        made.ok()
    }
}

impl Kept {
    /// The hash of everything that a pipeline is made from.
    fn key(&self, kernel: &Kernel, text: &str) -> Hash {
        hash([&self.device, kernel.name, kernel.entry, text].map(str::as_bytes))
    }

    fn path(&self, key: Hash) -> PathBuf {
        self.dir.join(name(key) + ".pipeline")
    }

    fn read(&self, key: Hash) -> Option<Vec<u8>> {
        read(&self.path(key), key)
    }

    /// A folder that cannot be written costs compiling again at the next start, and a warning.
    fn write(&self, key: Hash, data: &[u8]) {
        let path = self.path(key);
        if let Err(error) = write(&path, key, data) {
            // Once: the other files fail alike.
            static SAID: Once = Once::new();
            SAID.call_once(
                || tracing::warn!(path = %path.display(), %error, "compiled shaders cannot be kept"),
            );
        }
    }
}

/// What the file of `key` holds, if it is whole and that of `key`.
fn read(path: &Path, key: Hash) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let data = unseal(&bytes).and_then(|content| content.strip_prefix(&key[..]));
    if data.is_none() {
        tracing::debug!(path = %path.display(), "a kept pipeline is damaged: compiling it again");
    }
    data.map(<[u8]>::to_vec)
}

fn write(path: &Path, key: Hash, data: &[u8]) -> std::io::Result<()> {
    write_whole(path, &seal(&[&key, data].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_or_foreign_file_is_not_read_and_a_written_one_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let kept = |device: &str| Kept { dir: dir.path().join("shaders"), device: device.into() };
        let (here, elsewhere) = (kept("a GPU, driver 1"), kept("a GPU, driver 2"));
        let kernel = &crate::shaders::BANDWIDTH;
        let key = here.key(kernel, "text");
        assert_eq!(here.read(key), None);
        here.write(key, b"machine code");
        assert_eq!(here.read(key).as_deref(), Some(&b"machine code"[..]));
        let other = elsewhere.key(kernel, "text");
        assert_ne!(key, other);
        assert_ne!(key, here.key(kernel, "another text"));
        // As whoever copies a cache under another's name.
        std::fs::copy(here.path(key), here.path(other)).unwrap();
        assert_eq!(elsewhere.read(other), None);
        let whole = std::fs::read(here.path(key)).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..16], b"", b"WGPUPLCH"] {
            std::fs::write(here.path(key), damaged).unwrap();
            assert_eq!(here.read(key), None);
            here.write(key, b"anew");
            assert_eq!(here.read(key).as_deref(), Some(&b"anew"[..]));
        }
    }
}
