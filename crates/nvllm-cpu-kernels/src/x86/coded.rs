//! Coded weights as bf16, for AVX512-BF16 under bf16 activations.
//!
//! An element's value is rounded to bf16, and products have the bits of those bf16 weights: the
//! order is that of [`PairDot`](super::avx512::PairDot), twice as many products an instruction as
//! in f32. Codes of 4 bits are looked up among the 16 values of their group, which are rounded once
//! a group; other codes are made f32 and rounded. (`vcvtne2ps2bf16` takes subnormals for zero, as
//! the products do.)

use super::avx512::Avx512;
use crate::coded::{CodedForm, Codes, Formula};
use crate::elem::Elem;
use crate::generic::coded::{
    Code, CodedDot, Counted, Decode, Fp8, Groups, Looked, Rule, STEP, Signed, Walk, decode_rows, with_form,
    write_tile,
};
use crate::generic::dot::{AHEAD, fold_phases};
use crate::simd::{Bf16, F16, F32, Simd, Stored};
use crate::table::CodedKernels;
#[allow(clippy::wildcard_imports, reason = "intrinsics are many and carry their own prefix")]
use std::arch::x86_64::*;

use crate::generic::coded::{Affine, Midpoint, Symmetric, ZeroPoint};

/// Columns of a vector of bf16, and of the two that make a unit: the order has two phases.
const COLS: usize = 2 * STEP;
const UNIT: usize = 2 * COLS;

/// How the codes of a unit become bf16.
trait PairCode: Code<Avx512, 1> {
    /// What the groups of a unit's halves share, perhaps the same one.
    type Shared: Copy;
    /// Bytes of a unit.
    const BYTES: usize = UNIT / <Self as Code<Avx512, 1>>::STEPS;
    /// Whether `values` are the even and the odd quarters of a unit, and not its halves.
    const QUARTERS: bool;

    unsafe fn shared(halves: [Self::Group; 2]) -> Self::Shared;
    /// `TWO`: whether the groups of the halves differ.
    unsafe fn values<const TWO: bool>(shared: Self::Shared, p: *const u8) -> [__m512bh; 2];
}

/// From the even and the odd quarters of a unit to its halves, or back.
#[inline(always)]
unsafe fn exchange(v: [__m512i; 2]) -> [__m512i; 2] {
    [_mm512_shuffle_i64x2::<0x44>(v[0], v[1]), _mm512_shuffle_i64x2::<0xee>(v[0], v[1])]
}

#[inline(always)]
unsafe fn words(v: __m512bh) -> __m512i {
    std::mem::transmute::<__m512bh, __m512i>(v)
}

#[inline(always)]
unsafe fn pairs(v: __m512i) -> __m512bh {
    std::mem::transmute::<__m512i, __m512bh>(v)
}

/// Among the values of both groups: 32, as many as an index of five bits tells apart. A byte has
/// column `i` and column `i + 16` of one block, so that low and high halves are a quarter each of
/// two blocks.
impl<R: Rule> PairCode for Looked<R> {
    type Shared = __m512i;
    const QUARTERS: bool = true;

    #[inline(always)]
    unsafe fn shared(halves: [[__m512; 1]; 2]) -> __m512i {
        words(_mm512_cvtne2ps_pbh(halves[1][0], halves[0][0]))
    }
    #[inline(always)]
    unsafe fn values<const TWO: bool>(shared: __m512i, p: *const u8) -> [__m512bh; 2] {
        let mut low = _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.cast()));
        let mut high = _mm512_srli_epi16::<4>(low);
        if TWO {
            // With one group the fifth bit does not matter: it is the next code's first.
            let group = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(16));
            low = _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi16(15)), group);
            high = _mm512_or_si512(high, group);
        }
        [pairs(_mm512_permutexvar_epi16(low, shared)), pairs(_mm512_permutexvar_epi16(high, shared))]
    }
}

/// In f32 first: the half at `p`.
#[inline(always)]
unsafe fn rounded<C: Code<Avx512, 1>>(group: C::Group, p: *const u8) -> __m512bh {
    let second = if C::STEPS == 2 { C::load(group, p, 1, 0) } else { C::load(group, p.add(STEP), 0, 0) };
    _mm512_cvtne2ps_pbh(second, C::load(group, p, 0, 0))
}

macro_rules! rounded_code {
    ([$($rule:ident)?] $code:ty) => {
        impl$(<$rule: Rule>)? PairCode for $code {
            type Shared = [<Self as Code<Avx512, 1>>::Group; 2];
            const QUARTERS: bool = false;

            #[inline(always)]
            unsafe fn shared(halves: Self::Shared) -> Self::Shared {
                halves
            }
            #[inline(always)]
            unsafe fn values<const TWO: bool>(shared: Self::Shared, p: *const u8) -> [__m512bh; 2] {
                [rounded::<Self>(shared[0], p), rounded::<Self>(shared[1], p.add(Self::BYTES / 2))]
            }
        }
    };
}
rounded_code!([R] Counted<R>);
rounded_code!([R] Signed<R>);
rounded_code!([] Fp8);

/// Whether rows are whole units, of one group or of two each.
fn takes(form: &CodedForm) -> bool {
    let whole = form.k.is_multiple_of(form.group) && (form.group == COLS || form.group.is_multiple_of(UNIT));
    form.k.is_multiple_of(UNIT) && (form.group >= form.k || whole)
}

/// The units of one group, or the one unit of two, from group `group` of those held on.
#[inline(always)]
unsafe fn shared_by<C: PairCode, const TWO: bool>(
    scales: &Groups,
    table: *const f32,
    group: usize,
) -> C::Shared {
    let first = scales.at::<Avx512, C, 1>(table, group);
    let second = if TWO { scales.at::<Avx512, C, 1>(table, group + 1) } else { first };
    C::shared([first, second])
}

/// Rows `cols[0] ..`, `cols[1] ..` and so on, `n` each, side by side: N streams of memory. They
/// take turns of B units, no more than a group has; `TWO` if a unit has two groups.
#[inline(always)]
unsafe fn dot_rows<E: Stored, R: Rule, C: PairCode, const TWO: bool, const B: usize, const N: usize>(
    a: &CodedDot,
    cols: [usize; N],
    n: usize,
) {
    let form = &a.w.form;
    let (table, groups, units) = (form.table(), form.groups(), form.k / UNIT);
    let (taken, len) = if TWO { (2, 1) } else { (1, form.group.min(form.k) / UNIT) };
    let (x, phase_len) = (a.x.cast::<u16>(), units * COLS);
    let mut tile = [[Avx512::splat(0.0); 4]; 4];
    for j in 0..n {
        let w = cols.map(|col| Walk::of(&a.w, col + j));
        let mut acc = [[Avx512::splat(0.0); 2]; N];
        for first in (0..groups).step_by(STEP) {
            let held = STEP.min(groups - first);
            let mut scales = [Groups::NONE; N];
            for s in 0..N {
                scales[s] = w[s].groups::<Avx512, E, R>(first, held);
            }
            for group in (0..held).step_by(taken) {
                let mut shared = [shared_by::<C, TWO>(&scales[0], table, group); N];
                for s in 1..N {
                    shared[s] = shared_by::<C, TWO>(&scales[s], table, group);
                }
                let start = (first + group) / taken * len;
                for turn in (start..start + len).step_by(B) {
                    for s in 0..N {
                        for line in (0..B * C::BYTES).step_by(64) {
                            Avx512::prefetch(w[s].codes.wrapping_add(turn * C::BYTES + AHEAD + line));
                        }
                    }
                    for unit in turn..turn + B {
                        let at = x.add(unit * COLS);
                        let halves =
                            [_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(phase_len).cast())];
                        let xv = if C::QUARTERS { exchange(halves) } else { halves };
                        for s in 0..N {
                            let wv = C::values::<TWO>(shared[s], w[s].codes.add(unit * C::BYTES));
                            acc[s][0] = _mm512_dpbf16_ps(acc[s][0], pairs(xv[0]), wv[0]);
                            acc[s][1] = _mm512_dpbf16_ps(acc[s][1], pairs(xv[1]), wv[1]);
                        }
                    }
                }
            }
        }
        for s in 0..N {
            if C::QUARTERS {
                let [even, odd] = [_mm512_castps_si512(acc[s][0]), _mm512_castps_si512(acc[s][1])];
                let [first, second] = exchange([even, odd]);
                acc[s] = [_mm512_castsi512_ps(first), _mm512_castsi512_ps(second)];
            }
            tile[j % 4][s] = fold_phases::<Avx512, 2>(acc[s]);
        }
        if j % 4 == 3 || j + 1 == n {
            write_tile::<Avx512, N>(&a.out, tile, j % 4 + 1, cols.map(|col| a.col + col + j - j % 4));
        }
    }
}

/// All rows in four streams, as far apart as they go; the last streams may begin early and compute
/// rows of others again.
#[inline(always)]
unsafe fn dot_streams<E: Stored, R: Rule, C: PairCode, const TWO: bool, const B: usize>(a: &CodedDot) {
    if a.w.n < 4 {
        return dot_rows::<E, R, C, TWO, B, 1>(a, [0], a.w.n);
    }
    let n = a.w.n.div_ceil(4);
    dot_rows::<E, R, C, TWO, B, 4>(a, std::array::from_fn(|s| (s * n).min(a.w.n - n)), n);
}

#[inline(always)]
unsafe fn dot_turns<E: Stored, R: Rule, C: PairCode>(a: &CodedDot) {
    let group = a.w.form.group.min(a.w.form.k);
    match group / UNIT {
        0 => dot_streams::<E, R, C, true, 1>(a),
        units if units.is_multiple_of(2) => dot_streams::<E, R, C, false, 2>(a),
        _ => dot_streams::<E, R, C, false, 1>(a),
    }
}

/// Rows one after another: several at a time were slower.
#[inline(always)]
unsafe fn decode_units<E: Stored, R: Rule, C: PairCode, const TWO: bool>(a: &Decode) {
    let form = &a.w.form;
    let (table, groups) = (form.table(), form.groups());
    let (taken, len) = if TWO { (2, 1) } else { (1, form.group.min(form.k) / UNIT) };
    for row in 0..a.w.n {
        let (w, dst) = (Walk::of(&a.w, row), a.dst.add(row * form.k * Bf16::BYTES));
        for first in (0..groups).step_by(STEP) {
            let held = STEP.min(groups - first);
            let scales = w.groups::<Avx512, E, R>(first, held);
            for group in (0..held).step_by(taken) {
                let shared = shared_by::<C, TWO>(&scales, table, group);
                let start = (first + group) / taken * len;
                for unit in start..start + len {
                    let codes = w.codes.add(unit * C::BYTES);
                    Avx512::prefetch(codes.wrapping_add(AHEAD));
                    let [one, other] = C::values::<TWO>(shared, codes);
                    let mut values = [words(one), words(other)];
                    if C::QUARTERS {
                        values = exchange(values);
                    }
                    for half in 0..2 {
                        let to = dst.add((unit * UNIT + half * COLS) * Bf16::BYTES);
                        _mm512_storeu_si512(to.cast(), values[half]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn decode_any<E: Stored, R: Rule, C: PairCode>(a: &Decode) {
    if !takes(&a.w.form) {
        decode_rows::<Avx512, Bf16, E, R, C, 1>(a);
    } else if a.w.form.group == COLS {
        decode_units::<E, R, C, true>(a);
    } else {
        decode_units::<E, R, C, false>(a);
    }
}

pub(crate) static PAIRS: CodedKernels = {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")]
    unsafe fn dot(a: &CodedDot) {
        with_form!(a.w.form, Avx512, P, (E, R, C) => dot_turns::<E, R, C>(a));
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")]
    unsafe fn decode(a: &Decode) {
        with_form!(a.w.form, Avx512, P, (E, R, C) => decode_any::<E, R, C>(a));
    }
    CodedKernels { elem: Elem::Bf16, takes, dot, decode }
};
