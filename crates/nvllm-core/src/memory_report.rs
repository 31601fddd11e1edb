//! What a loaded model holds in memory.

use std::fmt;

use crate::ByteCount;

/// What a backend allocates for a model, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryReport {
    /// Weights, in bytes (mapped or copied).
    pub weights: usize,
    /// KV cache, in bytes.
    pub kv: usize,
    /// Values between ops, in bytes.
    pub arena: usize,
    /// Kernel scratch, in bytes.
    pub scratch: usize,
}

impl MemoryReport {
    /// The sum, or the address space if that is less.
    pub fn total(&self) -> usize {
        [self.kv, self.arena, self.scratch].into_iter().fold(self.weights, usize::saturating_add)
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, kv, arena, scratch } = *self;
        write!(
            f,
            "{} (weights {}, KV cache {}, values between ops {}",
            ByteCount(self.total()),
            ByteCount(weights),
            ByteCount(kv),
            ByteCount(arena)
        )?;
        if scratch > 0 {
            write!(f, ", scratch {}", ByteCount(scratch))?;
        }
        f.write_str(")")
    }
}
