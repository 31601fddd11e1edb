//! The kernels, written once over [`super::simd::Simd`] and compiled for every instruction set.
//!
//! Everything here is `#[inline(always)]`, closures are avoided in loops: the code must end up
//! inside the one function that carries the `target_feature` attribute, or each intrinsic would be
//! a call.

pub(crate) mod attention;
pub(crate) mod coded;
pub(crate) mod dot;
pub(crate) mod int8;
pub(crate) mod out;
pub(crate) mod pages;
pub(crate) mod rows;

/// Runs `$body` with `$E` bound to the [`super::simd::Stored`] type of a run-time element type.
macro_rules! with_elem {
    ($elem:expr, $E:ident => $body:expr) => {
        match $elem {
            $crate::elem::Elem::F32 => {
                type $E = $crate::simd::F32;
                $body
            }
            $crate::elem::Elem::Bf16 => {
                type $E = $crate::simd::Bf16;
                $body
            }
            $crate::elem::Elem::F16 => {
                type $E = $crate::simd::F16;
                $body
            }
        }
    };
}
pub(crate) use with_elem;
