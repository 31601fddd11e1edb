//! The CPU backend's kernels: one table of function pointers per instruction set, chosen at run
//! time.
//!
//! **Why a crate.** Compiling every kernel for every instruction set takes minutes, and nothing
//! here depends on anything of nvLLM: a change of the tape or of the backend does not compile them
//! again. `nvllm-cpu` calls them and has their tests.
//!
//! A new architecture (NEON: four lanes, four phases) is one module that implements `simd::Simd`,
//! one line with `kernel_table!`, and one arm in [`Isa::missing`] and [`Kernels::of`]. Nothing
//! outside this crate names an instruction set.

#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every unsafe fn below has one contract: the instruction set is there, pointers cover the stated extents"
)]
#![allow(clippy::inline_always, reason = "code must end up in the function that has the target features")]
#![allow(clippy::needless_range_loop, reason = "loops over registers are unrolled by index")]
#![allow(
    clippy::missing_safety_doc,
    clippy::cast_ptr_alignment,
    reason = "one contract, above; loads are unaligned"
)]

mod coded;
mod elem;
mod generic;
mod isa;
mod kernels;
mod scalar;
mod simd;
mod table;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use coded::{CodedForm, Codes, Formula};
pub use elem::{Elem, PageElem};
pub use generic::attention::{CHUNK, Chunk, State};
pub use generic::coded::{CodedDot, CodedRows, Decode};
pub use generic::dot::{Block, Direct, MAX_ROWS, PackW, PackX};
pub use generic::int8::{Int8Dot, MAX_K as MAX_INT8_K, Quantize};
pub use generic::out::{Out, PANEL};
pub use generic::pages::PageRow;
pub use generic::rows::{Binary, RmsNorm, Rope, WeightedSum};
pub use isa::{Isa, MissingIsa};
pub use kernels::Kernels;
pub use table::{ActMode, AttentionKernels, CodedKernels, DotKernels, Int8Kernels, RowKernels, SumOrder};
