//! What ops run on: threads, kernels, and memory kept between calls.

use std::sync::Arc;

use crate::attention::AttentionScratch;
use crate::linear::LinearLists;
use crate::scratch::{Buffer, PerThread};
use crate::{Kernels, Pool};

/// A pool, kernels, and the memory they work in.
pub struct Cpu {
    pub(crate) pool: Arc<Pool>,
    pub(crate) kernels: &'static Kernels,
    /// Packed activations.
    pub(crate) packed: Buffer,
    pub(crate) lists: LinearLists,
    pub(crate) attention: AttentionScratch,
    pub(crate) threads: PerThread,
    /// Rows of coded weights as f32.
    pub(crate) decoded: PerThread,
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cpu({:?}, {:?})", self.pool, self.kernels)
    }
}

impl Cpu {
    /// Joins the two.
    pub fn new(pool: Arc<Pool>, kernels: &'static Kernels) -> Self {
        let per_thread = || PerThread::new(pool.num_threads());
        let (threads, decoded) = (per_thread(), per_thread());
        Self {
            pool,
            kernels,
            packed: Buffer::default(),
            lists: LinearLists::default(),
            attention: AttentionScratch::default(),
            threads,
            decoded,
        }
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The kernels.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Bytes of scratch held now: it grows with the largest shapes seen and is kept.
    pub fn scratch_bytes(&self) -> usize {
        self.packed.len() + self.attention.len() + self.threads.len() + self.decoded.len()
    }
}
