//! One opened device: buffers, pipelines, and what has gone wrong with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nvllm_core::CoreError;
use wgpu::{
    Buffer, BufferUsages, CommandEncoder, ErrorFilter, Features, PollType, QuerySet, QuerySetDescriptor,
    QueryType, SubmissionIndex,
};

use crate::adapter::{AdapterFacts, choose, wanted_features};
use crate::error::{Result, WgpuError};
use crate::kernel::{Kernel, Pipeline};
use crate::options::WgpuOptions;
use crate::pipelines::Pipelines;

/// Bytes to which offsets of bindings are aligned on every adapter that is opened.
pub(crate) const ALIGN: usize = 256;

/// How long what still runs on a failed device is waited for.
const LAST_WORK: Duration = Duration::from_secs(10);

/// The device. Shared by everything that is made on it.
pub(crate) struct Gpu {
    pub facts: AdapterFacts,
    device: wgpu::Device,
    queue: wgpu::Queue,
    failure: Arc<Mutex<Failure>>,
    pipelines: Pipelines,
}

/// What has gone wrong with a device.
#[derive(Default)]
struct Failure {
    /// The loss of the device: what is said of it first, because it explains the rest.
    lost: Option<String>,
    /// The first failure that no scope has caught.
    uncaught: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Opens the adapter that is asked for by name or index.
    pub(crate) fn open(options: &WgpuOptions) -> Result<Self> {
        let (mut facts, adapter) = choose(options)?;
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
        let failure = Arc::new(Mutex::new(Failure::default()));
        let (uncaught, lost) = (Arc::clone(&failure), Arc::clone(&failure));
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&uncaught).uncaught.get_or_insert_with(|| error.to_string());
        }));
        device.set_device_lost_callback(move |reason, message| {
            let why = if reason == wgpu::DeviceLostReason::Destroyed { "it was destroyed" } else { &message };
            lock(&lost).lost.get_or_insert_with(|| format!("the device is lost: {why}"));
        });
        let words = format!("{}, {}, {}", facts.name, facts.api, facts.driver);
        let pipelines = Pipelines::new(&device, options.cache_dir.clone(), words);
        Ok(Self { facts, device, queue, failure, pipelines })
    }

    /// Errors once the device has failed.
    pub(crate) fn check(&self) -> Result<()> {
        let Failure { lost, uncaught } = &*lock(&self.failure);
        match lost.as_ref().or(uncaught.as_ref()).cloned() {
            None => Ok(()),
            Some(problem) => Err(WgpuError::Failed { problem }),
        }
    }

    /// Loses the device, as the driver does that resets it.
    pub(crate) fn destroy(&self) {
        self.device.destroy();
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

    /// Errors if the device cannot say when a pass has ended.
    pub(crate) fn check_timing(&self) -> nvllm_core::Result<()> {
        if self.device.features().contains(Features::TIMESTAMP_QUERY) {
            return Ok(());
        }
        Err(CoreError::Unsupported {
            backend: "wgpu".into(),
            op: "a profile by op".into(),
            reason: format!("adapter {} has no timestamps", self.facts.name),
        })
    }

    /// Memory of so many timestamps.
    pub(crate) fn query_set(&self, num: u32) -> QuerySet {
        let descriptor =
            QuerySetDescriptor { label: Some("a profile"), ty: QueryType::Timestamp, count: num };
        self.device.create_query_set(&descriptor)
    }

    /// Device memory that timestamps are copied to.
    pub(crate) fn query_buffer(&self, bytes: usize) -> Result<Buffer> {
        self.buffer(padded(bytes), BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC, "a profile")
    }

    /// What one tick of a timestamp is.
    pub(crate) fn seconds_per_tick(&self) -> f64 {
        f64::from(self.queue.get_timestamp_period()) * 1e-9
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
        // A lost device takes everything until it is polled.
        self.device.poll(PollType::Poll).map_err(|error| self.failed(error.to_string()))?;
        self.check()?;
        Ok(index)
    }

    /// Waits until a submission has run.
    pub(crate) fn wait(&self, index: SubmissionIndex) -> Result<()> {
        let waited = self.device.poll(PollType::Wait { submission_index: Some(index), timeout: None });
        self.check()?;
        waited.map(drop).map_err(|error| self.failed(error.to_string()))
    }

    /// What has gone wrong, of which `problem` may be a consequence. A lost device says that it is
    /// lost when it is polled and nothing runs on it any more.
    fn failed(&self, problem: String) -> WgpuError {
        let polled = self.device.poll(PollType::Wait { submission_index: None, timeout: Some(LAST_WORK) });
        let problem = polled.err().map_or(problem, |error| error.to_string());
        self.check().err().unwrap_or(WgpuError::Failed { problem })
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
        // Another thread that waits for the device may be the one that says so, a little later.
        loop {
            match lock(&state).take() {
                Some(Ok(())) => break,
                Some(Err(error)) => return Err(self.failed(error.to_string())),
                None => std::thread::yield_now(),
            }
            self.check()?;
            self.device.poll(PollType::Poll).map_err(|error| self.failed(error.to_string()))?;
        }
        let view = slice.get_mapped_range().map_err(|error| self.failed(error.to_string()))?;
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
        self.pipelines.get(kernel, constants)
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
