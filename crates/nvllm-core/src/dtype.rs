//! Element types.

use half::{bf16, f16};

/// The element type of a tensor in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// Signed 32-bit integer (expert ids).
    I32,
    /// Unsigned byte (packed codes).
    U8,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }

    /// The nearest value of this type, as f32 (round to nearest even). Integer types leave `x` as
    /// it is.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::Bf16 => bf16::from_f32(x).to_f32(),
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::F32 | Self::I32 | Self::U8 => x,
        }
    }

    /// Decodes element `index` of little-endian `bytes`; any alignment.
    ///
    /// # Panics
    /// If `bytes` is too short: callers hold validated shapes.
    pub fn read(self, bytes: &[u8], index: usize) -> f32 {
        let at = index * self.size();
        match self {
            Self::F32 => f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]),
            Self::F16 => f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
            Self::Bf16 => bf16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
            Self::I32 => i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as f32,
            Self::U8 => f32::from(bytes[at]),
        }
    }

    /// Appends `x`, rounded to this type, to `out` in little-endian order.
    pub fn write(self, x: f32, out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend_from_slice(&x.to_le_bytes()),
            Self::F16 => out.extend_from_slice(&f16::from_f32(x).to_le_bytes()),
            Self::Bf16 => out.extend_from_slice(&bf16::from_f32(x).to_le_bytes()),
            Self::I32 => out.extend_from_slice(&(x as i32).to_le_bytes()),
            Self::U8 => out.push(x as u8),
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I32 => "i32",
            Self::U8 => "u8",
        })
    }
}
