//! The fast CPU backend: SIMD kernels chosen at run time, weights read in place, every core busy.
//!
//! **What.** [`Cpu`] joins a thread [`Pool`] with the [`Kernels`] of one instruction set and offers
//! the ops of a language model on rows in memory: [`Cpu::linear`], [`Cpu::attention`], norms,
//! rotary embedding, gather, `SwiGLU`.
//!
//! **Why so.** A decode step reads every weight once, so it can be no faster than memory: the GEMV
//! keeps one sequential stream of weight rows per thread, in the checkpoint's own dtype and place,
//! and everything else is arranged not to interrupt it. A prefill is bound by multiply-adds: the
//! GEMM converts weights once into cache-sized panels and keeps a register tile busy. Both sum the
//! products of an output in one fixed order (see [`SumOrder`]), and attention merges fixed chunks
//! of keys in ascending order, so a token's values do not depend, in any bit, on what else is in
//! the batch, on how a prompt was cut, on where its keys lie, or on the number of threads. In f32
//! they do not depend on the instruction set either.
//!
//! **Absent on purpose.** No BLAS (its order changes with the shape). No copy of dense weights. No
//! work stealing: sections are a few microseconds long. No configuration from the environment.

mod attention;
mod backend;
mod bandwidth;
mod coded;
mod cpu;
mod error;
mod exact_head;
mod int8;
mod linear;
mod pool;
mod rows;
mod scratch;
mod topology;
mod zeroed;

pub use attention::{AttentionShape, KvLayout, KvPages, KvPagesMut, SequenceQueries};
pub use backend::CpuBackend;
pub use bandwidth::{measure_read_bandwidth, read_once};
pub use coded::Coded;
pub use cpu::Cpu;
pub use error::{CpuError, Result};
pub use exact_head::ExactHead;
pub use linear::{ExpertRows, Segment, Weights};
pub use nvllm_cpu_kernels::{
    ActMode, CodedForm, Codes, Elem, Formula, Isa, Kernels, MissingIsa, PageElem, SumOrder,
};
pub use pool::{MAX_THREADS, Pool, PoolConfig};
pub use rows::{NormWeight, Rows, RowsMut};
pub use topology::{allowed_cpus, default_threads};
