//! x86-64: AVX2 and AVX-512, found at run time.

pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod coded;
pub(crate) mod int8;

use std::arch::x86_64::__cpuid;

/// Whether AMD made this processor.
pub(crate) fn is_amd() -> bool {
    let id = __cpuid(0);
    [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}
