//! The tolerance table: how far a backend may be from the reference, and why.
//!
//! Every bound is absolute and belongs to one output element. It is the sum of
//! - an *accumulation* part, relative to the sum of the magnitudes of the terms that the element is
//!   made of (for a linear layer `sum |x_i w_i|`), because cancellation leaves the rounding error
//!   and removes the value; and
//! - a *storage* part: one ulp of the dtype in which the value is kept. Two f32 results that differ
//!   in the last bit may lie on the two sides of a rounding border, and then their roundings are
//!   neighbours: one ulp apart, never two.
//!
//! Summing `k` terms in f32 in any order errs by at most `(k - 1) u sum |t_i|` (Higham 2002,
//! section 4.2, `u = 2^-24`); for the roundings of unrelated terms the expected size is `sqrt(k) u`
//! (Higham and Mary 2019). Blocked and FMA orders err less, truncating tensor-core adders more, by
//! a constant. The table takes `(4 + 2 sqrt(k)) u`: at `k = 1,000` that is 4e-6 of the terms'
//! magnitudes. A random dot product is about `sqrt(2 / (pi k))^-1` times smaller than those, so a
//! planted scale error of 0.1 % is still an order of magnitude outside. Neighbours in bf16 are
//! `2^-7` of a value apart just above a power of two (0.78 %) and `2^-8` (0.39 %) just below one: 2
//! % is outside.
//!
//! | what | accumulation part | storage part |
//! |---|---|---|
//! | copies: `embed`, `slice_cols`, `gather_rows`, `all_reduce`, `all_gather`, `kv_append` | 0: bit-equal | 0 |
//! | `add` | `2u (abs a + abs b)` | 1 ulp |
//! | `linear`, `expert_linear` | [`accumulation`]`(k) (sum abs(x w) + abs b)`, and under bf16 activations `abs(sum x (bf16(w) - w))`: weights may be rounded to bf16, as those are for which there is no kernel | 1 ulp |
//! | `weighted_sum` | [`accumulation`]`(c) sum abs(x w)` | 1 ulp |
//! | `rms_norm` | [`accumulation`]`(n) abs y`: all squares are positive, nothing cancels | 1 ulp |
//! | `silu_mul` | [`exponential`]`(z) abs y` | 1 ulp |
//! | `rope` | `8u (abs a + abs b)`: the rotation itself is defined to the last f32 bit | 1 ulp |
//! | `top_k` weights | ([`exponential`]`(x - max) +` [`accumulation`]`(E)) w` | f32 |
//! | `linear_add` | that of `add`, and that of `linear` with its ulp: the product may be rounded or not | 1 ulp |
//! | `linear_silu_mul` | that of `silu_mul`, and that of `linear` with its ulp through `silu` and the product | 1 ulp |
//! | `paged_attention`, `attention` | see below | 1 ulp |
//! | log-probabilities | [`LOGPROB`] | f32 |
//!
//! The fused ops that begin with a linear layer may skip the rounding of its product, or not.
//!
//! # Attention
//!
//! `o = sum p_j v_j` with `p_j = e^(s_j) / sum e^(s_i)`. What a backend computes differs from it by
//! four things; the first two are there under f32 activations too.
//! 1. *Scores.* An error `e_j` in each score `s_j` makes `p_j` into `p_j e^(e_j)` before the
//!    division, hence `o` into `o + sum p_j (e^(e_j) - 1) (v_j - o) / sum p_i e^(e_i)`: at most
//!    `e^(2 max e) sum p_j e_j abs(v_j - o)`, where `abs(e^x - 1) <= abs(x) e^abs(x)`. What is
//!    common to all positions cancels. A score errs by [`accumulation`]`(d) sum abs(q k)` as
//!    `linear` does, its exponential by [`exponential`] (an `exp2` of two ulps and a rounded
//!    argument).
//! 2. *Sums* over `n` positions in f32, in chunks that are brought to a common maximum:
//!    [`accumulation`]`(n) sum p abs v`. A rescaling errs by some `6u`; maxima of random scores
//!    change some `ln(n / 64)` times in tiles of 64 positions, which is far below the `2 sqrt(n) u`
//!    of the sum.
//! 3. *Rounded probabilities*, under bf16 activations: tensor cores take `p` in bf16, of 8
//!    significant bits. Rounding to nearest errs by at most half the distance between neighbours,
//!    `2^-8` of the value ([`BF16`]; `2^-9` holds for values just below a power of two only). If
//!    the sum of the unrounded ones divides, the error is `sum p_j r_j v_j`, `abs r_j <= 2^-8`. If
//!    the sum of the rounded ones divides, it is `sum p_j r_j (v_j - o)` by the formula above. With
//!    `w` for `v` or `v - o`, it is to first order at most `2^-8 sum p abs w`. It is expected to be
//!    much less: roundings of different numbers are unrelated, each at most uniform in its interval
//!    and so of deviation at most `2^-8 / sqrt 3`; a sum of such errors is beyond `4 * 2^-8
//!    sqrt(sum (p w)^2)` with a probability below 1e-10 (Chernoff's bound: a uniform error's `E
//!    e^(tx)` is at most `e^(t^2 var / 2)`, hence `2 e^-24` at 4 `sqrt` 3 deviations; bounded
//!    errors of another law would give 7e-4). Scores closer together than a step of bf16 are
//!    rounded to one side; drawn scores spread over many steps. Equal probabilities, of equal keys,
//!    are rounded alike and counted as one term. [`probabilities`] is the lesser of both.
//! 4. *Rounded queries and keys*, where norm and rotation are inside the fused op under bf16
//!    activations. The expansion rounds behind the norm and behind the rotation; a kernel rounds
//!    once, or elsewhere. An element `x` of a rotated pair of length `r` hence differs by the
//!    norm's rounding, turned (at most `2^-8 (abs(a cos) + abs(b sin)) <= 2^-8 r`), and two
//!    roundings of `x`: at most `3 * 2^-8 r` ([`FUSED_KEY`]). In a score these are unrelated
//!    roundings, of a query and of a key, each behind the norm and twice behind the rotation. The
//!    squares of their terms add up to at most `6 * 2^-16 (r_q r_k)^2` a pair of columns, and the
//!    variance of uniform roundings is a third of that: a deviation of at most `2^-8 sqrt(sum (r_q
//!    r_k)^2)`, where the sum runs over columns and meets each pair twice. [`FUSED_SCORE`] takes
//!    three such deviations. Those that arise are about half as large, as a pair's length lies in
//!    both of its columns and values lie anywhere in their binade; and that all scores err by as
//!    much, each to the same side, is not expected either.
//!
//! A key that is stored in fewer bits than it is computed in (as a code of [`KvFormat::Fp8`] or
//! [`KvFormat::Int8`], or in bf16 under f32 activations) behind norm and rotation may become the
//! neighbour of what the reference stores, one [`step`] away, if the two differ before:
//! by `e` at most as 4 says, and so with a probability of `e / step` at most. The variance of what
//! that does to a score is at most the sum of `q^2 e step` over its columns. [`STORED_SCORE`] takes
//! three deviations, and one whole step, as under f32 activations a neighbour is seldom and then
//! larger than any number of deviations. The scale of an int8 row moves with its largest element,
//! by `sqrt(2) e` of itself at most, and all values of the row with it.

pub use nvllm_core::sampling::tolerance::{LOGPROB, MASS, SCORE};
use nvllm_core::{Activations, DType, KvFormat};

/// Unit roundoff of f32: half the distance from 1 to the next number.
pub const U: f64 = 1.0 / (1 << 24) as f64;

/// Unit roundoff of bf16.
pub const BF16: f64 = 1.0 / 256.0;

/// What fused attention may do to an element of a rotated key under bf16 activations, for each unit
/// of its pair's length.
pub const FUSED_KEY: f64 = 3.0 * BF16;

/// What it may do to a score before scaling, for each unit of `sqrt(sum (r_q r_k)^2)`: `r` are the
/// lengths of the columns' pairs.
pub const FUSED_SCORE: f64 = 3.0 * BF16;

/// What keys that became neighbours in the KV cache may do to a score before scaling, in
/// deviations, beside one step.
pub const STORED_SCORE: f64 = 3.0;

/// Error of a sum of `k` products, relative to the sum of their magnitudes.
pub fn accumulation(k: usize) -> f64 {
    (4.0 + 2.0 * (k as f64).sqrt()) * U
}

/// Relative error of `exp(x)` and what is made of it: the argument's own rounding is amplified by
/// `|x|`.
pub fn exponential(x: f64) -> f64 {
    (16.0 + 4.0 * x.abs()) * U
}

/// Storage part: one ulp of `dtype` at `x`. The accumulation part covers f32.
pub fn ulp(dtype: DType, x: f32) -> f64 {
    let exponent = (((x.to_bits() >> 23) & 0xff) as i32).max(1) - 127;
    match dtype {
        DType::Bf16 => 2_f64.powi(exponent - 7),
        DType::F16 => 2_f64.powi(exponent.max(-14) - 10),
        DType::F32 | DType::I32 | DType::U8 => 0.0,
    }
}

/// The distance to the next value at element `x` of a row of the KV cache whose largest magnitude
/// is `max`, if the row is stored as codes.
pub fn step(format: KvFormat, x: f64, max: f64) -> f64 {
    match format {
        // Three mantissa bits down to 2^-6, then subnormals.
        KvFormat::Fp8 => 2_f64.powi((x.abs().max(2_f64.powi(-6)).log2().floor()) as i32 - 3),
        KvFormat::Int8 => max / 127.0,
        KvFormat::F32 | KvFormat::Bf16 => 0.0,
    }
}

/// What rounding probabilities to bf16 may cost attention: `sizes` are the magnitudes of the terms,
/// `alike` numbers them from 0, equal probabilities by the same number.
pub fn probabilities(sizes: impl Iterator<Item = f64>, alike: &[usize]) -> f64 {
    let mut together = vec![0.0; alike.iter().max().map_or(0, |last| last + 1)];
    for (size, &number) in sizes.zip(alike) {
        together[number] += size;
    }
    let squares: f64 = together.iter().map(|size| size * size).sum();
    BF16 * f64::min(together.iter().sum(), 4.0 * squares.sqrt())
}

/// Whole programs, first op to logits, relative to the largest logit of the row.
///
/// Errors of single ops pass through at most `depth` residual branches and add up like a random
/// walk, so the bound grows with the root. It is wide: it exists to catch wrong mathematics in
/// programs whose inner values are not kept (so that buffers are shared and ops fused); exactness
/// is the business of the bounds above.
///
/// A cache in bf16 under f32 activations lies between: two keys that differ in the last f32 bit may
/// round to neighbours in the cache, `2^-8` apart, and through one column of one score that reaches
/// the logits. Neighbours in int8 are about as far apart, those in FP8 32 times as far.
pub fn program(activations: Activations, kv: KvFormat, depth: usize) -> f64 {
    let one = match (activations, kv) {
        (_, KvFormat::Fp8) => 6.4e-2,
        (Activations::F32, KvFormat::F32) => 2e-5,
        (Activations::F32, _) => 2e-3,
        (Activations::Bf16, _) => 2e-2,
    };
    one * (depth.max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_probabilities_are_rounded_alike() {
        let bound = |alike: &[usize]| probabilities(alike.iter().map(|_| 1.0), alike);
        assert_eq!(bound(&[0; 64]), 64.0 * BF16, "equal ones add up");
        let different: Vec<usize> = (0..64).collect();
        assert_eq!(bound(&different), 32.0 * BF16, "others by their squares");
        assert_eq!(bound(&different[..4]), 4.0 * BF16, "few add up at most");
    }

    /// The roundoff is reached, by a number halfway between a power of two and its upper neighbour,
    /// and not passed.
    #[test]
    fn bf16_rounds_by_its_unit_roundoff_at_most() {
        let off = |x: f32| f64::from((DType::Bf16.round(x) - x).abs() / x);
        assert!(off(1.0 + 1.0 / 256.0) > 0.99 * BF16);
        let worst = (0..10_000).map(|i| off(1.0 + i as f32 / 10_000.0)).fold(0.0, f64::max);
        assert!(worst <= BF16, "{worst}");
    }

    #[test]
    fn ulps_are_the_distance_to_the_next_number() {
        for x in [1.0_f32, 1.5, -3.75, 1e-3, 0.0, 260.0] {
            let at = DType::Bf16.round(x);
            let next = f32::from_bits(at.to_bits() + 0x1_0000);
            assert_eq!(ulp(DType::Bf16, at), f64::from((next - at).abs()), "{x}");
        }
    }
}
