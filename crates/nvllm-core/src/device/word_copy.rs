//! Copies of words on the device.

use bytemuck::{Pod, Zeroable};

/// Words to copy from the packed bytes to a place of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable, Pod)]
#[repr(C)]
pub struct WordCopy {
    /// First word of the layout.
    pub to: u64,
    /// First word of the packed bytes.
    pub from: u32,
    /// How many.
    pub num_words: u32,
}

const _: () = assert!(size_of::<WordCopy>() == 16);
