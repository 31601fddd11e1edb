//! The parity suite: what every backend passes, as a library.
//!
//! A backend's tests are one line: `nvllm_conformance::conformance!(parity, || MyBackend::new());`
//! makes a module with one test a case. Everything goes through the public traits [`Backend`],
//! `Executable` and `KvCache`, so the suite knows nothing of how a backend works, and a backend
//! nothing of the suite.
//!
//! The oracle is the reference backend of `nvllm-core`. Three ideas make the comparison sharp:
//! - **Any input through `embed`.** Programs have no inputs beside tokens. Each begins with `embed`
//!   of random tables, and a token selects a row; so any activations, queries, keys or router
//!   logits reach an op.
//! - **Anchoring.** Every value of a program is kept. The reference runs the same step, and after
//!   each op its own result is compared with the backend's and then replaced by it. An op is
//!   therefore judged on the backend's own inputs: errors of earlier ops neither hide a fault nor
//!   excuse one, an expert chosen by a hair does not derail the rest, and the first difference
//!   names the op at fault.
//! - **Tight bounds.** The [`tolerance`] of an element follows from the magnitudes of the terms
//!   that it is made of. The crate's own tests plant faults (a scale error of 0.1 % in f32, 2 % in
//!   bf16, one wrong element, a swapped head map) into the reference and require that each is
//!   caught.
//!
//! Two further kinds of case need no oracle: *metamorphic* ones (the same tokens under any
//! chunking, batch, page size and placement, bit for bit, wherever
//! [`schedule`](nvllm_core::Executable::schedule) states one order) and *contract* ones (slots,
//! masks, errors that leave no trace, the KV cache).
//!
//! Generators run from fixed seeds, so a failure is the same on every run; proptest shrinks it, and
//! the message holds the program, the seed and the first value that differs. `PROPTEST_CASES=200
//! cargo test` looks longer, `PROPTEST_RNG_SEED=1` looks elsewhere.
//!
//! Weights come in every public format of [`nvllm_core::weight::PUBLIC`], drawn as numbers and
//! packed: a backend computes with their values or refuses them by name.
//!
//! A [`ModelOp`] is one op of a model's program by itself, in the shapes of a real model: held to
//! the reference, or loaded in copies for whoever has a clock.
//!
//! Deliberately absent: clocks, model families, checkpoints and their readers.

mod anchor;
mod bound;
mod check;
mod coded;
mod contract;
mod draw;
pub mod error;
mod every_row;
mod extents;
pub mod faults;
mod formats;
mod hidden;
mod layout;
mod masks;
mod metamorphic;
mod model_op;
mod models;
mod ops;
mod ring;
mod sampling;
mod sharing;
mod source;
mod support;
mod timed;
pub mod tolerance;
mod trial;
mod unusable;
mod windows;
mod with_numerics;

use nvllm_core::Backend;

pub use check::Settings;
pub use error::{Difference, Mismatch, Result};
pub use extents::Extents;
pub use model_op::{ModelOp, Setting, Support};
pub use source::MemorySource;
pub use support::{Named, SupportTable, support_tables};
pub use timed::{Cost, Timed};
pub use with_numerics::WithNumerics;

/// One part of the suite.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name; the op's stem if it is about one op.
    pub name: &'static str,
    /// Runs it. The error says what is wrong.
    pub run: fn(&dyn Backend, &Settings) -> Result<()>,
}

/// The functions behind [`CASES`], by name.
pub mod cases {
    pub use crate::contract::{
        blocks_in_flight, entries, kept_values, kv_cache, refused_steps, slot_sources, step_spans,
        steps_in_flight,
    };
    pub use crate::formats::{embed_formats, expert_linear_formats, linear_formats};
    pub use crate::hidden::hidden_states;
    pub use crate::masks::{masks, masks_in_flight};
    pub use crate::metamorphic::{batch_invariance, chunk_invariance, moved_blocks, page_invariance};
    pub use crate::models::{many_sequences, models_end_to_end, models_op_by_op};
    pub use crate::ops::*;
    pub use crate::sampling::{frequencies, logprobs, sample, sample_large};
    pub use crate::sharing::{block_copies, resumed_sequences, shared_blocks};
    pub use crate::unusable::unusable_rows;
    pub use crate::windows::window_blocks;
}

/// Makes a test module `$module` with one `#[test]` a case, each on the backend that the closure
/// `$make` returns.
///
/// The backend is any type that implements [`Backend`]:
/// ```
/// # use nvllm_core::Reference;
/// nvllm_conformance::conformance!(parity, || Reference::default());
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance {
    ($module:ident, $make:expr) => {
        $crate::each_case! { conformance_module ($module, $make) }
    };
}

/// As [`conformance!`] for a backend that this machine may lack: `$make` returns a `Result`, and
/// where it is an error each test prints why it is skipped.
/// ```
/// # use nvllm_core::Reference;
/// nvllm_conformance::conformance_where_found!(parity, || Err::<Reference, _>("there is no such device"));
/// # fn main() {}
/// ```
/// A third argument is the number of trials on a backend.
#[macro_export]
macro_rules! conformance_where_found {
    ($module:ident, $make:expr) => {
        $crate::conformance_where_found!($module, $make, |_| 24);
    };
    ($module:ident, $make:expr, $trials:expr) => {
        $crate::each_case! { conformance_module_where_found ($module, $make, $trials) }
    };
}

/// The one list of cases, handed to another macro.
#[doc(hidden)]
#[macro_export]
macro_rules! each_case {
    ($callback:ident ($($args:tt)*)) => {
        $crate::$callback! { ($($args)*)
            embed rms_norm linear add silu_mul slice_cols rope kv_append paged_attention attention linear_add linear_silu_mul
            gather_rows top_k expert_linear weighted_sum all_reduce all_gather sample sample_large logprobs masks masks_in_flight frequencies hidden_states unusable_rows
            embed_formats linear_formats expert_linear_formats
            models_op_by_op models_end_to_end many_sequences batch_invariance chunk_invariance page_invariance moved_blocks
            slot_sources steps_in_flight step_spans blocks_in_flight refused_steps kept_values kv_cache kv_groups entries
            block_copies shared_blocks resumed_sequences window_blocks
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_module {
    (($module:ident, $make:expr) $($case:ident)*) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[test]
                fn $case() {
                    let make = $make;
                    $crate::expect_conformance($crate::cases::$case, &make());
                }
            )*
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_module_where_found {
    (($module:ident, $make:expr, $trials:expr) $($case:ident)*) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[test]
                fn $case() {
                    let make = $make;
                    match make() {
                        Ok(backend) => {
                            let num_trials = $crate::num_trials(&backend, $trials);
                            $crate::expect_trials($crate::cases::$case, &backend, num_trials);
                        }
                        Err(reason) => println!("skipped: {reason}"),
                    }
                }
            )*
        }
    };
}

macro_rules! case_list {
    (() $($case:ident)*) => {
        &[$(Case { name: stringify!($case), run: cases::$case }),*]
    };
}
use case_list;

/// Every case, in the order in which a backend is best brought up.
pub const CASES: &[Case] = each_case! { case_list () };

/// Runs one case with default [`Settings`].
///
/// # Panics
/// With the mismatch, if there is one: this is what the tests of [`conformance!`] call.
pub fn expect_conformance(case: fn(&dyn Backend, &Settings) -> Result<()>, backend: &dyn Backend) {
    expect(case, backend, &Settings::default());
}

/// As [`expect_conformance`], with so many trials.
///
/// # Panics
/// As it does.
pub fn expect_trials(
    case: fn(&dyn Backend, &Settings) -> Result<()>,
    backend: &dyn Backend,
    num_trials: u32,
) {
    expect(case, backend, &Settings::of(num_trials));
}

/// Gives the closure that counts a backend's trials its type.
#[doc(hidden)]
pub fn num_trials<B>(backend: &B, count: impl FnOnce(&B) -> u32) -> u32 {
    count(backend)
}

fn expect(case: fn(&dyn Backend, &Settings) -> Result<()>, backend: &dyn Backend, settings: &Settings) {
    if let Err(mismatch) = case(backend, settings) {
        panic!("backend `{}`: {mismatch}", backend.info().name);
    }
}

#[cfg(test)]
mod tests {
    conformance!(reference, || nvllm_core::Reference::default());
}
