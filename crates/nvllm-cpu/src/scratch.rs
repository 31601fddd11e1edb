//! Memory that kernels need between calls: grown on first use, kept, aligned to cache lines.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A buffer that only grows.
#[derive(Default)]
pub(crate) struct Buffer(Vec<Line>);

impl Buffer {
    /// The address of at least `len` bytes, aligned to 64; what was in them is lost when the buffer
    /// grows.
    pub(crate) fn bytes(&mut self, len: usize) -> *mut u8 {
        let lines = len.div_ceil(64);
        if self.0.len() < lines {
            self.0.clear();
            self.0.resize(lines, Line([0; 64]));
        }
        self.0.as_mut_ptr().cast()
    }

    /// Bytes held.
    pub(crate) fn len(&self) -> usize {
        self.0.len() * 64
    }
}

/// One buffer per thread of a pool.
pub(crate) struct PerThread(Vec<Mutex<Buffer>>);

impl PerThread {
    pub(crate) fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| Mutex::default()).collect())
    }

    /// The buffer of a thread; never contended, since a thread index is in use once.
    pub(crate) fn of(&self, thread: usize) -> MutexGuard<'_, Buffer> {
        self.0[thread].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes held, over all threads.
    pub(crate) fn len(&self) -> usize {
        (0..self.0.len()).map(|t| self.of(t).len()).sum()
    }
}
