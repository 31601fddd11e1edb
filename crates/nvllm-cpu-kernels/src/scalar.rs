//! The portable path: eight "lanes" in an array, which a compiler for a machine with fused
//! multiply-add turns into vectors. Where the machine has none, `mul_add` is a library call: slow,
//! and still the same bits.

use crate::generic::int8::Plain;
use crate::simd::{Bf16, F16, MAX_LANES, Simd, Stored, UNITS};
use crate::table::{int8_table, kernel_table};
use std::array::from_fn;

/// Eight f32 in an array.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

const N: usize = 8;

impl Simd for Scalar {
    type V = [f32; N];
    const LANES: usize = N;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        p.cast::<Self::V>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        p.cast::<Self::V>().write_unaligned(v);
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Self::V {
        from_fn(|i| Bf16::get(p.add(2 * i)))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self::V {
        from_fn(|i| F16::get(p.add(2 * i)))
    }
    #[inline(always)]
    unsafe fn get_f16(p: *const u8) -> f32 {
        F16::get(p)
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self::V {
        from_fn(|i| f32::from(*p.add(i) as i8))
    }
    /// As an f16 whose exponent is 8 too small: a 4-bit one in a field of 5 bits.
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> Self::V {
        from_fn(|i| {
            let bits = u16::from(*p.add(i));
            half::f16::from_bits((bits & 0x80) << 8 | (bits & 0x7f) << 7).to_f32_const()
        })
    }
    type Words = [u8; N];
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> [u8; N] {
        p.cast::<[u8; N]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn nibble(w: [u8; N], half: usize) -> Self::V {
        from_fn(|i| f32::from(w[i] >> (4 * half) & 15))
    }
    #[inline(always)]
    unsafe fn look_up<const P: usize>(values: [Self::V; P], w: [u8; N], half: usize) -> Self::V {
        from_fn(|i| {
            let code = usize::from(w[i] >> (4 * half) & 15);
            values[code / N][code % N]
        })
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u8, v: Self::V) {
        for (i, x) in v.iter().enumerate() {
            Bf16::put(p.add(2 * i), *x);
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn round(v: Self::V) -> Self::V {
        v.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::V) -> Self::V {
        n.map(|n| f32::from_bits((((n as i32) + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn zero_below(x: Self::V, limit: Self::V, v: Self::V) -> Self::V {
        from_fn(|i| if x[i] < limit[i] { 0.0 } else { v[i] })
    }
    #[inline(always)]
    unsafe fn fold(v: Self::V) -> f32 {
        let q: [f32; 4] = from_fn(|i| v[i] + v[i + 4]);
        (q[0] + q[2]) + (q[1] + q[3])
    }
    #[inline(always)]
    unsafe fn fold16(v: [[Self::V; 4]; 4]) -> [f32; 16] {
        from_fn(|i| Self::fold(v[i / 4][i % 4]))
    }
    type Units = [[u8; 4]; N];
    #[inline(always)]
    unsafe fn load_units(p: *const u8) -> Self::Units {
        p.cast::<Self::Units>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn columns(rows: &[*const u8; MAX_LANES], at: usize) -> [Self::Units; UNITS] {
        from_fn(|u| from_fn(|i| rows[i].add(at + 4 * u).cast::<[u8; 4]>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn unit_f32(u: Self::Units) -> Self::V {
        u.map(f32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn unit_bf16(u: Self::Units, part: usize) -> Self::V {
        u.map(|u| f32::from_le_bytes([0, 0, u[2 * part], u[2 * part + 1]]))
    }
    #[inline(always)]
    unsafe fn unit_i8(u: Self::Units, part: usize) -> Self::V {
        u.map(|u| f32::from(u[part] as i8))
    }
    #[inline(always)]
    unsafe fn unit_e4m3(u: Self::Units, part: usize) -> Self::V {
        Self::load_e4m3(u.map(|u| u[part]).as_ptr())
    }
    #[inline(always)]
    unsafe fn zip(even: Self::V, odd: Self::V) -> [Self::V; 2] {
        let lane = |i: usize| if i.is_multiple_of(2) { even[i / 2] } else { odd[i / 2] };
        [from_fn(lane), from_fn(|i| lane(N + i))]
    }
    #[inline(always)]
    unsafe fn unzip(low: Self::V, high: Self::V) -> [Self::V; 2] {
        let lane = |i: usize| if i < N { low[i] } else { high[i - N] };
        [from_fn(|i| lane(2 * i)), from_fn(|i| lane(2 * i + 1))]
    }
}

int8_table! { INT8: Plain<Scalar>, rows: 2 }
kernel_table! { Scalar, phases: 2, rows: 3, 3 }
