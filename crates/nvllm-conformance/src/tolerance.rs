//! The tolerance table: how far a backend may be from the reference, and why.
//!
//! Every bound is absolute and belongs to one output element. It is the sum of
//! - an *accumulation* part, relative to the sum of the magnitudes of the terms that the element is made of (for a
//!   linear layer `sum |x_i w_i|`), because cancellation leaves the rounding error and removes the value; and
//! - a *storage* part: one ulp of the dtype in which the value is kept. Two f32 results that differ in the last bit may
//!   lie on the two sides of a rounding border, and then their roundings are neighbours: one ulp apart, never two.
//!
//! Summing `k` terms in f32 in any order errs by at most `(k - 1) u sum |t_i|` (Higham 2002, section 4.2, `u = 2^-24`);
//! for the roundings of unrelated terms the expected size is `sqrt(k) u` (Higham and Mary 2019). Blocked and FMA orders
//! err less, truncating tensor-core adders more, by a constant. The table takes `(4 + 2 sqrt(k)) u`: at `k = 1,000` that
//! is 4e-6 of the terms' magnitudes. A random dot product is about `sqrt(2 / (pi k))^-1` times smaller than those, so a
//! planted scale error of 0.1 % is still an order of magnitude outside. bf16 has `2^-8` between neighbours at the lower
//! end of a binade (0.39 %, 0.78 % of a value just above a power of two is the most): 2 % is outside.
//!
//! | what | accumulation part | storage part |
//! |---|---|---|
//! | copies: `embed`, `slice_cols`, `gather_rows`, `all_reduce`, `all_gather`, `kv_append` | 0: bit-equal | 0 |
//! | `add` | `2u (abs a + abs b)` | 1 ulp |
//! | `linear`, `expert_linear` | [`accumulation`]`(k) (sum abs(x w) + abs b)` | 1 ulp |
//! | `weighted_sum` | [`accumulation`]`(c) sum abs(x w)` | 1 ulp |
//! | `rms_norm` | [`accumulation`]`(n) abs y`: all squares are positive, nothing cancels | 1 ulp |
//! | `silu_mul` | [`exponential`]`(z) abs y` | 1 ulp |
//! | `rope` | `8u (abs a + abs b)`: the rotation itself is defined to the last f32 bit | 1 ulp |
//! | `top_k` weights | ([`exponential`]`(x - max) +` [`accumulation`]`(E)) w` | f32 |
//! | `linear_add` | that of `add`, and that of `linear` with its ulp: the product may be rounded or not | 1 ulp |
//! | `linear_silu_mul` | that of `silu_mul`, and that of `linear` with its ulp through `silu` and the product | 1 ulp |
//! | `paged_attention` | scores as `linear` over the head, then [`exponential`], then the weighted values | 1 ulp |
//! | log-probabilities | [`LOGPROB`] | f32 |
//!
//! Three concessions are made to kernels as they are built, all only under bf16 activations: attention may round its
//! probabilities to bf16 before they meet the values (half an ulp, `2^-8 sum p abs v`), fused `attention` may skip
//! the roundings of q and k between norm and rope, or round them elsewhere ([`FUSED_QK`]), and the fused ops that begin with a
//! linear layer may skip the rounding of its product.

use nvllm_core::{Activations, DType};

/// Unit roundoff of f32: half the distance from 1 to the next number.
pub const U: f64 = 1.0 / (1 << 24) as f64;

/// Absolute error allowed in a log-probability, for each unit of `4 + |logit| + |logprob|`: the sum of `vocab`
/// exponentials in f32 enters through its logarithm, so its relative error becomes an absolute one.
pub const LOGPROB: f64 = 32.0 * U;

/// Relative size of what fused attention may do to one element of q or k: two roundings to bf16 that the expansion
/// makes and the kernel does not, and the reverse.
pub const FUSED_QK: f64 = 1.0 / 128.0;

/// Absolute slack of a sampling score, `logit / temperature + Gumbel noise`, for each unit of `1 + |score|`: the noise is
/// two logarithms in f32, whose argument near 1 carries few bits.
pub const SCORE: f64 = 1e-4;

/// Relative slack of a probability against a threshold (top-p, min-p).
pub const MASS: f64 = 1e-4;

/// Error of a sum of `k` products, relative to the sum of their magnitudes.
pub fn accumulation(k: usize) -> f64 {
    (4.0 + 2.0 * (k as f64).sqrt()) * U
}

/// Relative error of `exp(x)` and what is made of it: the argument's own rounding is amplified by `|x|`.
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

/// What rounding probabilities to the activation dtype may cost attention, relative to `sum p |v|`; or, where the rounded ones are
/// also what the sum is divided by, to `sum p |v - o|`. Half the distance between neighbours is at most `2^-8` of a value.
pub const fn probabilities(activations: Activations) -> f64 {
    match activations {
        Activations::F32 => 0.0,
        Activations::Bf16 => 1.0 / 256.0,
    }
}

/// Whole programs, first op to logits, relative to the largest logit of the row.
///
/// Errors of single ops pass through at most `depth` residual branches and add up like a random walk, so the bound grows
/// with the root. It is wide: it exists to catch wrong mathematics in programs whose inner values are not kept (so that
/// buffers are shared and ops fused); exactness is the business of the bounds above.
///
/// A cache in bf16 under f32 activations lies between: two keys that differ in the last f32 bit may round to neighbours
/// in the cache, `2^-8` apart, and through one column of one score that reaches the logits.
pub fn program(activations: Activations, kv: DType, depth: usize) -> f64 {
    let one = match (activations, kv) {
        (Activations::F32, DType::F32) => 2e-5,
        (Activations::F32, _) => 2e-3,
        (Activations::Bf16, _) => 2e-2,
    };
    one * (depth.max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulps_are_the_distance_to_the_next_number() {
        for x in [1.0_f32, 1.5, -3.75, 1e-3, 0.0, 260.0] {
            let at = DType::Bf16.round(x);
            let next = f32::from_bits(at.to_bits() + 0x1_0000);
            assert_eq!(ulp(DType::Bf16, at), f64::from((next - at).abs()), "{x}");
        }
    }
}
