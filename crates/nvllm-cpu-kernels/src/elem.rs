//! The element types that kernels read and write.

/// An element type that kernels read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE 754 binary16 (weights only).
    F16,
}

impl Elem {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// An element type of KV pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageElem {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// FP8 E4M3.
    E4m3,
    /// Integers of 8 bits, each row with a scale in f32.
    I8,
}

impl PageElem {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::E4m3 | Self::I8 => 1,
        }
    }

    /// Bytes of a row's scale; 0 if it has none.
    pub const fn scale_size(self) -> usize {
        match self {
            Self::I8 => size_of::<f32>(),
            Self::F32 | Self::Bf16 | Self::E4m3 => 0,
        }
    }
}
