//! Uploads of weights, by several threads at once.
//!
//! The driver copies from memory that is not page-locked by one thread, through a buffer of its
//! own, and takes the page faults of a mapped file there. Here each thread copies chunks into two
//! page-locked buffers in turn: one is filled while the other is on its way, and page faults are
//! taken by all threads.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, available_parallelism, scope, spawn};

use bytes::Bytes;

use crate::device::Device;
use crate::error::{CudaError, Doing, Result};
use crate::memory::{Buffer, Pinned};

/// Bytes of a chunk, and of each page-locked buffer: large beside the start of a copy, small beside
/// the time to lock the pages.
const CHUNK: usize = 2 << 20;

/// Threads at most: a few fill a GPU's bus.
const MOST_THREADS: usize = 6;

/// One copy.
pub(crate) struct Part {
    pub to: Arc<Buffer>,
    pub offset: usize,
    pub bytes: Bytes,
}

/// Copies under way; dropped, they go on by themselves.
pub(crate) struct Uploading(JoinHandle<Result<()>>);

impl Uploading {
    /// Starts to copy all of `parts`.
    pub(crate) fn start(device: &Arc<Device>, parts: Vec<Part>) -> Self {
        let device = Arc::clone(device);
        Self(spawn(move || upload(&device, parts)))
    }

    /// Waits until everything is in device memory.
    pub(crate) fn wait(self) -> Result<()> {
        let ended = self.0.join();
        ended.unwrap_or_else(|_| Err(panicked()))
    }
}

fn panicked() -> CudaError {
    CudaError::Driver { what: "uploading weights", cause: "a thread panicked".into() }
}

/// The chunks of so many bytes.
fn ranges(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(CHUNK).map(move |at| at..(at + CHUNK).min(len))
}

/// The parts in chunks.
fn chunks(parts: Vec<Part>) -> impl Iterator<Item = Part> {
    parts.into_iter().flat_map(|Part { to, offset, bytes }| {
        ranges(bytes.len()).map(move |range| Part {
            to: Arc::clone(&to),
            offset: offset + range.start,
            bytes: bytes.slice(range),
        })
    })
}

fn upload(device: &Arc<Device>, parts: Vec<Part>) -> Result<()> {
    let bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
    let processors = available_parallelism().map_or(1, usize::from);
    let threads = (bytes / (4 * CHUNK)).clamp(1, MOST_THREADS.min(processors));
    let queue = Mutex::new(chunks(parts));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| work(device, next))).collect();
        let own = work(device, next);
        let ended = others.into_iter().map(|other| other.join().unwrap_or_else(|_| Err(panicked())));
        ended.fold(own, Result::and)
    })
}

/// Copies what `next` gives, in two buffers in turn.
fn work(device: &Arc<Device>, next: impl Fn() -> Option<Part>) -> Result<()> {
    device.bind()?;
    let stream = device.context.new_stream().doing("making a stream")?;
    let mut staged = [Pinned::new(device, CHUNK)?, Pinned::new(device, CHUNK)?];
    for turn in 0.. {
        let Some(Part { to, offset, bytes }) = next() else { break };
        let staged = &mut staged[turn % 2];
        staged.bytes_mut()?[..bytes.len()].copy_from_slice(&bytes);
        staged.upload_to(&stream, bytes.len(), &to, offset)?;
    }
    // Before the buffers that copies write to can be freed.
    stream.synchronize().doing("uploading weights")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_each_part_once() {
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7] {
            let mut covered = 0;
            for range in ranges(len) {
                assert!(range.start == covered && range.len() <= CHUNK && !range.is_empty(), "{range:?}");
                covered = range.end;
            }
            assert_eq!(covered, len);
        }
    }
}
