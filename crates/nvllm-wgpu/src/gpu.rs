//! One opened device: buffers, pipelines, and what has gone wrong with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wgpu::{
    Buffer, BufferUsages, CommandEncoder, ComputePipelineDescriptor, ErrorFilter, PollType,
    ShaderModuleDescriptor, ShaderSource, SubmissionIndex,
};

use crate::adapter::{AdapterFacts, choose, wanted_features};
use crate::error::{Result, WgpuError};
use crate::kernel::{Kernel, Pipeline};
use crate::options::WgpuOptions;

/// Bytes to which offsets of bindings are aligned on every adapter that is opened.
pub(crate) const ALIGN: usize = 256;

/// The device. Shared by everything that is made on it.
pub(crate) struct Gpu {
    pub facts: AdapterFacts,
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// The first failure that no scope has caught, or the loss of the device.
    failure: Arc<Mutex<Option<String>>>,
    /// By kernel and constants.
    pipelines: Mutex<HashMap<(&'static str, String), Pipeline>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Opens the adapter that is asked for by name or index.
    pub(crate) fn open(options: &WgpuOptions) -> Result<Self> {
        let (mut facts, adapter) = choose(options.adapter.as_deref())?;
        facts.piece_bytes = options.piece_bytes.unwrap_or(facts.max_binding).min(facts.max_binding);
        let limits = adapter.limits();
        let unsuitable = |problem: String| WgpuError::Unsuitable { name: facts.name.clone(), problem };
        if facts.workgroup_size < 256 {
            let problem = format!("its workgroups have {} invocations; 256 are needed", facts.workgroup_size);
            return Err(unsuitable(problem));
        }
        if facts.max_bindings < 8 {
            let problem = format!("its shaders see {} storage buffers; 8 are needed", facts.max_bindings);
            return Err(unsuitable(problem));
        }
        if limits.min_storage_buffer_offset_alignment as usize > ALIGN {
            return Err(unsuitable(format!("it aligns bindings to more than {ALIGN} bytes")));
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("nvllm"),
            required_features: wanted_features(&adapter),
            required_limits: limits,
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let opened = pollster::block_on(adapter.request_device(&descriptor));
        let (device, queue) = opened
            .map_err(|error| WgpuError::NoDevice { name: facts.name.clone(), problem: error.to_string() })?;
        let failure = Arc::new(Mutex::new(None::<String>));
        let note = |failure: &Arc<Mutex<Option<String>>>| {
            let failure = Arc::clone(failure);
            move |problem: String| {
                lock(&failure).get_or_insert(problem);
            }
        };
        let (uncaught, lost) = (note(&failure), note(&failure));
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| uncaught(error.to_string())));
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device is no failure.
            if reason != wgpu::DeviceLostReason::Destroyed {
                lost(format!("the device is lost: {message}"));
            }
        });
        Ok(Self { facts, device, queue, failure, pipelines: Mutex::default() })
    }

    /// Errors once the device has failed.
    pub(crate) fn check(&self) -> Result<()> {
        match lock(&self.failure).clone() {
            None => Ok(()),
            Some(problem) => Err(WgpuError::Failed { problem }),
        }
    }

    /// Zeroed device memory of at least `bytes`, for what shaders read and write.
    pub(crate) fn storage(&self, bytes: usize, what: &'static str) -> Result<Buffer> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        self.buffer(padded(bytes), usage, what)
    }

    /// Memory that the host reads.
    pub(crate) fn readback(&self, bytes: usize, what: &'static str) -> Result<Buffer> {
        self.buffer(padded(bytes), BufferUsages::MAP_READ | BufferUsages::COPY_DST, what)
    }

    fn buffer(&self, bytes: usize, usage: BufferUsages, what: &'static str) -> Result<Buffer> {
        let (memory, valid) = (
            self.device.push_error_scope(ErrorFilter::OutOfMemory),
            self.device.push_error_scope(ErrorFilter::Validation),
        );
        let size = bytes as u64;
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size,
            usage,
            mapped_at_creation: false,
        });
        let (valid, memory) = (pollster::block_on(valid.pop()), pollster::block_on(memory.pop()));
        match (valid, memory) {
            (None, None) => Ok(buffer),
            (Some(error), _) => Err(WgpuError::Failed { problem: error.to_string() }),
            (None, Some(_)) => Err(WgpuError::OutOfMemory { asked: bytes, what }),
        }
    }

    /// Parameters of one dispatch: up to 16 words that never change.
    pub(crate) fn params(&self, words: &[u32]) -> Result<Buffer> {
        let mut all = [0_u32; 16];
        all[..words.len()].copy_from_slice(words);
        let buffer = self.buffer(64, BufferUsages::UNIFORM | BufferUsages::COPY_DST, "parameters")?;
        self.write(&buffer, 0, bytemuck::cast_slice(&all));
        Ok(buffer)
    }

    /// Writes `data`, of whole words, before anything that is submitted later.
    pub(crate) fn write(&self, buffer: &Buffer, at: usize, data: &[u8]) {
        if !data.is_empty() {
            self.queue.write_buffer(buffer, at as u64, data);
        }
    }

    /// Waits until what was written so far is on the device, so that copies of it on the host go.
    pub(crate) fn flush(&self) -> Result<()> {
        let index = self.queue.submit([]);
        self.wait(index)
    }

    pub(crate) fn encoder(&self) -> CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") })
    }

    pub(crate) fn submit(&self, encoder: CommandEncoder) -> Result<SubmissionIndex> {
        let index = self.queue.submit([encoder.finish()]);
        self.check()?;
        Ok(index)
    }

    /// Waits until a submission has run.
    pub(crate) fn wait(&self, index: SubmissionIndex) -> Result<()> {
        let waited = self.device.poll(PollType::Wait { submission_index: Some(index), timeout: None });
        self.check()?;
        waited.map(drop).map_err(|error| WgpuError::Failed { problem: error.to_string() })
    }

    /// Bytes of a [`readback`](Self::readback) buffer, once the submission that fills it has run.
    pub(crate) fn read<T>(
        &self,
        buffer: &Buffer,
        len: usize,
        index: SubmissionIndex,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let slice = buffer.slice(..padded(len) as u64);
        let state = Arc::new(Mutex::new(None));
        let mapped = Arc::clone(&state);
        slice.map_async(wgpu::MapMode::Read, move |result| *lock(&mapped) = Some(result));
        self.wait(index)?;
        let failed = |problem: String| WgpuError::Failed { problem };
        // Another thread that waits for the device may be the one that says so, a little later.
        loop {
            match lock(&state).take() {
                Some(Ok(())) => break,
                Some(Err(error)) => return Err(failed(error.to_string())),
                None => std::thread::yield_now(),
            }
            self.check()?;
            self.device.poll(PollType::Poll).map_err(|error| failed(error.to_string()))?;
        }
        let view = slice.get_mapped_range().map_err(|error| failed(error.to_string()))?;
        let taken = take(&view[..len]);
        drop(view);
        buffer.unmap();
        Ok(taken)
    }

    /// Copies parts of `buffer` to the host, behind everything that was submitted.
    pub(crate) fn read_now(&self, parts: &[(&Buffer, usize, usize)]) -> Result<Vec<u8>> {
        let len: usize = parts.iter().map(|(.., len)| len).sum();
        let to = self.readback(len, "reading back")?;
        let mut encoder = self.encoder();
        let mut at = 0;
        for &(from, offset, len) in parts {
            encoder.copy_buffer_to_buffer(from, offset as u64, &to, at, len as u64);
            at += len as u64;
        }
        let index = self.submit(encoder)?;
        self.read(&to, len, index, <[u8]>::to_vec)
    }

    /// The pipeline of a kernel with these constants, made when it is first wanted.
    pub(crate) fn pipeline(&self, kernel: &Kernel, constants: &str) -> Result<Pipeline> {
        let key = (kernel.name, constants.to_owned());
        if let Some(pipeline) = lock(&self.pipelines).get(&key) {
            return Ok(pipeline.clone());
        }
        let scope = self.device.push_error_scope(ErrorFilter::Validation);
        let source = ShaderSource::Wgsl(kernel.text(constants));
        let descriptor = ShaderModuleDescriptor { label: Some(kernel.name), source };
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
            cache: None,
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(WgpuError::Shader { name: kernel.name.into(), problem: error.to_string() });
        }
        let pipeline = Pipeline { name: kernel.name, compiled, layout };
        lock(&self.pipelines).insert(key, pipeline.clone());
        Ok(pipeline)
    }

    pub(crate) fn bind_group(&self, pipeline: &Pipeline, parts: &[Part<'_>]) -> wgpu::BindGroup {
        let entries: Vec<_> = parts
            .iter()
            .enumerate()
            .map(|(at, part)| wgpu::BindGroupEntry {
                binding: at as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: part.buffer,
                    offset: part.at as u64,
                    size: std::num::NonZeroU64::new(part.len as u64),
                }),
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(pipeline.name),
            layout: &pipeline.layout,
            entries: &entries,
        })
    }
}

/// Part of a buffer as a shader sees it; the rest of it if `len` is 0.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    pub buffer: &'a Buffer,
    pub at: usize,
    pub len: usize,
}

impl<'a> Part<'a> {
    pub(crate) const fn whole(buffer: &'a Buffer) -> Self {
        Self { buffer, at: 0, len: 0 }
    }
}

/// Bytes of a buffer that holds `bytes`: whole words, and not empty.
pub(crate) const fn padded(bytes: usize) -> usize {
    let bytes = if bytes < 16 { 16 } else { bytes };
    bytes.next_multiple_of(4)
}
