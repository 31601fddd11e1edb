//! The elements of KV pages: how a row is read by the attention kernel, and how one is stored.
//!
//! What the formats mean is said in `nvllm_core::kv_format`. Bytes are numbers only together with
//! a factor for their row, which the attention kernel applies to what it has summed: for integers
//! the row's scale, for E4M3 the 2^8 that [`Simd::load_e4m3`] leaves out.

use super::{rows, with_elem};
use crate::elem::{Elem, PageElem};
use crate::simd::{Bf16, F32, MAX_LANES, Simd, Stored, UNITS, UNITS_BYTES};

/// An element type of pages.
pub(crate) trait Page: Copy + 'static {
    /// Bytes of one element.
    const SIZE: usize;
    /// Elements in a unit of 32 bits.
    const PARTS: usize = 4 / Self::SIZE;
    /// Whether [`Page::load_pair`] is less work than two of [`Page::load`].
    const PAIRED: bool = false;
    /// Whether rows have factors.
    const SCALED: bool = false;
    /// Loads `S::LANES` elements at `p`.
    unsafe fn load<S: Simd>(p: *const u8) -> S::V;
    /// Element `part` of each unit.
    unsafe fn part<S: Simd>(units: S::Units, part: usize) -> S::V;
    /// Loads `2 * S::LANES` elements at `p`: those at even places, and those at odd ones.
    #[inline(always)]
    unsafe fn load_pair<S: Simd>(p: *const u8) -> [S::V; 2] {
        S::unzip(Self::load::<S>(p), Self::load::<S>(p.add(S::LANES * Self::SIZE)))
    }
    /// Loads `n < S::LANES` elements at `p` and zeros after them; reads nothing beyond them.
    #[inline(always)]
    unsafe fn load_part<S: Simd>(p: *const u8, n: usize) -> S::V {
        let mut buffer = [0u8; 64];
        std::ptr::copy_nonoverlapping(p, buffer.as_mut_ptr(), n * Self::SIZE);
        Self::load::<S>(buffer.as_ptr())
    }
    /// The factor of a row of `n` elements whose scale is `scale`.
    #[inline(always)]
    unsafe fn factor(_row: *const u8, _n: usize, scale: f32) -> f32 {
        scale
    }
}

impl Page for F32 {
    const SIZE: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        S::load(p.cast())
    }
    #[inline(always)]
    unsafe fn part<S: Simd>(units: S::Units, _: usize) -> S::V {
        S::unit_f32(units)
    }
}

impl Page for Bf16 {
    const SIZE: usize = 2;
    const PAIRED: bool = true;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        S::load_bf16(p)
    }
    #[inline(always)]
    unsafe fn part<S: Simd>(units: S::Units, part: usize) -> S::V {
        S::unit_bf16(units, part)
    }
    #[inline(always)]
    unsafe fn load_pair<S: Simd>(p: *const u8) -> [S::V; 2] {
        let units = S::load_units(p);
        [S::unit_bf16(units, 0), S::unit_bf16(units, 1)]
    }
}

/// FP8 E4M3 in memory.
#[derive(Clone, Copy)]
pub(crate) struct E4m3;

impl Page for E4m3 {
    const SIZE: usize = 1;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        S::load_e4m3(p)
    }
    #[inline(always)]
    unsafe fn part<S: Simd>(units: S::Units, part: usize) -> S::V {
        S::unit_e4m3(units, part)
    }
    /// 2^8; NaN if an element is, which `load` and `part` would take for 480.
    #[inline(always)]
    unsafe fn factor(row: *const u8, n: usize, _scale: f32) -> f32 {
        let mut most = 0;
        for i in 0..n {
            most = most.max(*row.add(i) | 0x80);
        }
        if most == 0xff { f32::NAN } else { 256.0 }
    }
}

/// Integers of 8 bits in memory.
#[derive(Clone, Copy)]
pub(crate) struct I8;

impl Page for I8 {
    const SIZE: usize = 1;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        S::load_i8(p)
    }
    #[inline(always)]
    unsafe fn part<S: Simd>(units: S::Units, part: usize) -> S::V {
        S::unit_i8(units, part)
    }
}

/// Runs `$body` with `$E` bound to the [`Page`] type of a run-time element type.
macro_rules! with_page {
    ($elem:expr, $E:ident => $body:expr) => {
        match $elem {
            $crate::elem::PageElem::F32 => {
                type $E = $crate::simd::F32;
                $body
            }
            $crate::elem::PageElem::Bf16 => {
                type $E = $crate::simd::Bf16;
                $body
            }
            $crate::elem::PageElem::E4m3 => {
                type $E = $crate::generic::pages::E4m3;
                $body
            }
            $crate::elem::PageElem::I8 => {
                type $E = $crate::generic::pages::I8;
                $body
            }
        }
    };
}
pub(crate) use with_page;

/// [`Simd::columns`] from byte `at` of rows of `len` bytes; units beyond these are zero.
#[inline(always)]
pub(crate) unsafe fn columns<S: Simd>(
    rows: &[*const u8; MAX_LANES],
    at: usize,
    len: usize,
) -> [S::Units; UNITS] {
    if at + UNITS_BYTES <= len {
        return S::columns(rows, at);
    }
    let mut whole = [[0u8; UNITS_BYTES]; MAX_LANES];
    let mut copies = [whole[0].as_ptr(); MAX_LANES];
    for i in 0..S::LANES {
        std::ptr::copy_nonoverlapping(rows[i].add(at), whole[i].as_mut_ptr(), len - at);
        copies[i] = whole[i].as_ptr();
    }
    S::columns(&copies, 0)
}

/// A row to be stored in a page.
pub struct PageRow {
    pub x: *const u8,
    pub elem: Elem,
    pub out: *mut u8,
    pub out_elem: PageElem,
    pub n: usize,
}

/// Stores a row; returns its scale, 1 if the element type has none.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(a: &PageRow) -> f32 {
    match a.out_elem {
        PageElem::F32 => rows::convert::<S>(a.x, a.elem, a.out, Elem::F32, a.n),
        PageElem::Bf16 => rows::convert::<S>(a.x, a.elem, a.out, Elem::Bf16, a.n),
        PageElem::E4m3 => with_elem!(a.elem, A => {
            for i in 0..a.n {
                *a.out.add(i) = e4m3(A::get(a.x.add(i * A::BYTES)));
            }
        }),
        PageElem::I8 => return with_elem!(a.elem, A => store_i8::<A>(a)),
    }
    1.0
}

/// The nearest E4M3 number, of two the even one; beyond +-448 the largest; NaN stays NaN. Without
/// branches, so that a loop over it becomes vectors.
#[inline(always)]
fn e4m3(x: f32) -> u8 {
    let (sign, size) = (x.to_bits() >> 31 << 7, x.to_bits() & 0x7fff_ffff);
    // The exponent's bias goes from 127 to 7; three bits of mantissa stay, and what is half of the
    // last one or more carries into them.
    let rounded = size.wrapping_add(0x7_ffff + (size >> 20 & 1)) >> 20;
    let normal = rounded.wrapping_sub(120 << 3).min(0x7e);
    // Below 2^-6 all are multiples of 2^-9, the last bit of an f32 from 2^14 on.
    let small = (f32::from_bits(size.min(SMALLEST_NORMAL)) + 16_384.0).to_bits() - 16_384.0f32.to_bits();
    let code = if size < SMALLEST_NORMAL { small } else { normal };
    let code = if size > f32::INFINITY.to_bits() { 0x7f } else { code };
    (sign | code) as u8
}

/// 2^-6, as bits.
const SMALLEST_NORMAL: u32 = (127 - 6) << 23;

/// A row as integers of its scale.
#[inline(always)]
unsafe fn store_i8<A: Stored>(a: &PageRow) -> f32 {
    let get = |i: usize| A::get(a.x.add(i * A::BYTES));
    let mut most = 0;
    for i in 0..a.n {
        // As integers, magnitudes are in order, NaN above all.
        most = most.max(get(i).to_bits() & 0x7fff_ffff);
    }
    let scale = f32::from_bits(most) / 127.0;
    if scale == 0.0 || !scale.is_finite() {
        std::ptr::write_bytes(a.out, 0, a.n);
        return scale;
    }
    for i in 0..a.n {
        let code = (get(i) / scale).round_ties_even().clamp(-127.0, 127.0);
        // SAFETY: within +-127; a row of this scale has no NaN.
        *a.out.add(i) = code.to_int_unchecked::<i32>() as u8;
    }
    scale
}
