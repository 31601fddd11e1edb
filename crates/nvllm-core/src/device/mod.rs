//! A step as a device reads it: what device backends share, as [`host`](crate::host) is for host
//! backends.
//!
//! In device memory each part of a step's inputs has a fixed place ([`StepLayout`]), because
//! recorded launches hold addresses. What crosses the bus is packed ([`StepLayout::pack`]): only
//! the words that the step uses, one part after another, and a list of copies that says where each
//! belongs. So the bytes of a step grow with the step, and not with the context or the number of
//! sequences that the model was loaded for.
//!
//! Device backends also share what they keep on disk ([`kept`]), and how a model that is too large
//! is refused ([`check_fits`]).

mod check;
mod fits;
pub mod kept;
mod layout;
mod pack;
mod slot;
mod word_copy;

pub use check::StepCheck;
pub use fits::check_fits;
pub use layout::StepLayout;
pub use pack::{CountedTokens, PackedStep};
pub use slot::{DeviceReset, DeviceSlot};
pub use word_copy::WordCopy;

use bytemuck::{Pod, Zeroable};

/// One output row, as kernels read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable, Pod)]
#[repr(C)]
pub struct DeviceRow {
    /// Its row over all tokens of the step.
    pub row: i32,
    /// The slot of its sequence.
    pub slot: i32,
    /// A set of the bits below.
    pub wants: u32,
    /// Index in its sequence of the token that this row predicts.
    pub next_index: u32,
    /// The token to score; -1: the sampled one.
    pub target: i32,
    /// How many of the most likely tokens are wanted beside it.
    pub num_top: u32,
    /// To 32 bytes.
    pub padding: [u32; 2],
}

impl DeviceRow {
    /// A token is sampled.
    pub const SAMPLE: u32 = 1;
    /// A token is scored.
    pub const SCORE: u32 = 2;
    /// Sampling awaits a mask.
    pub const AWAITS_MASK: u32 = 4;
}

const _: () = assert!(size_of::<DeviceRow>() == 32);
