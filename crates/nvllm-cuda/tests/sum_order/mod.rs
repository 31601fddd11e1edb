//! The order in which linear layers sum, stated once: for every kernel of ours, on every
//! architecture, and for a vendor's product that does not split K.
//!
//! A *chain* takes columns in ascending order, as many at once as the tensor core adds in one
//! operation, into one f32. Ours cut K into ranges as `kernels/linear/linear_order.cuh` says, make
//! a chain of each and add the chains in ascending order; an unsplit product is one chain over K.
//!
//! What one operation of a tensor core gives is not in NVIDIA's documentation. As measured by Fasi,
//! Higham, Mikaitis and Pranesh 2021, "Numerical behavior of NVIDIA tensor cores" (PeerJ Computer
//! Science 7:e330), and by those who went on from there for later architectures: products are
//! exact; they and the accumulator are cut (towards zero) to some bits below the largest exponent
//! among them; the sum of these is exact, and cut to f32.

mod device;

/// How a tensor core adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TensorCore {
    /// Products that are added in one operation.
    columns: usize,
    /// Bits that a term keeps below the largest exponent.
    bits: i32,
}

/// By major compute capability: 8 (Ampere, Ada), 9 (Hopper), 10 and 12 (Blackwell).
const KNOWN: [(i32, TensorCore); 4] = [
    (8, TensorCore { columns: 8, bits: 24 }),
    (9, TensorCore { columns: 16, bits: 25 }),
    (10, TensorCore { columns: 16, bits: 25 }),
    (12, TensorCore { columns: 16, bits: 25 }),
];

/// A number `significand * 2^(exponent - fraction)`.
#[derive(Clone, Copy)]
struct Term {
    significand: i64,
    fraction: i32,
    exponent: i32,
}

impl Term {
    fn of(x: f32) -> Self {
        let bits = x.to_bits();
        let significand = i64::from(bits & 0x7f_ffff | 0x80_0000);
        let signed = if bits >> 31 == 0 { significand } else { -significand };
        let significand = if x == 0.0 { 0 } else { signed };
        Self { significand, fraction: 23, exponent: (bits >> 23 & 0xff) as i32 - 127 }
    }

    /// The exact product of two numbers of 8 significant bits; its exponent is the sum of theirs,
    /// also where it is 2 or more times that power.
    fn product(a: f32, b: f32) -> Self {
        let (a, b) = (Self::of(a), Self::of(b));
        Self {
            significand: (a.significand >> 16) * (b.significand >> 16),
            fraction: 14,
            exponent: a.exponent + b.exponent,
        }
    }

    /// In units of `2^(largest - bits)`, cut towards zero.
    fn cut(self, largest: i32, bits: i32) -> i64 {
        let shift = bits - self.fraction - (largest - self.exponent);
        let magnitude = self.significand.abs();
        let cut = if shift >= 0 { magnitude << shift } else { magnitude >> (-shift).min(63) };
        cut * self.significand.signum()
    }
}

/// The f32 nearest to `x` in the direction of zero. `x` is a normal number in f32's range, or 0.
fn cut_to_f32(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest).abs() > x.abs() { f32::from_bits(nearest.to_bits() - 1) } else { nearest }
}

impl TensorCore {
    /// One operation: `sum` and the products of two rows of columns, all of them bf16.
    fn add(self, sum: f32, x: &[f32], w: &[f32]) -> f32 {
        let products = x.iter().zip(w).map(|(&x, &w)| Term::product(x, w));
        let terms: Vec<Term> = products.chain([Term::of(sum)]).filter(|term| term.significand != 0).collect();
        let Some(largest) = terms.iter().map(|term| term.exponent).max() else { return 0.0 };
        let total: i64 = terms.iter().map(|term| term.cut(largest, self.bits)).sum();
        cut_to_f32(total as f64 * f64::from(largest - self.bits).exp2())
    }

    /// One chain over all columns.
    fn chain(self, x: &[f32], w: &[f32]) -> f32 {
        x.chunks(self.columns).zip(w.chunks(self.columns)).fold(0.0, |sum, (x, w)| self.add(sum, x, w))
    }

    /// The sum of a kernel of ours: order id `linear.split8`.
    fn split8(self, x: &[f32], w: &[f32]) -> f32 {
        let len = x.len().div_ceil(512) * 64;
        let chains = x.chunks(len).zip(w.chunks(len)).map(|(x, w)| self.chain(x, w));
        chains.reduce(|sum, chain| sum + chain).unwrap_or(0.0)
    }
}

/// Which tensor cores of those that could be give `sums`, for the message of a test that fails.
fn fitting(sums: &[f32], sum: impl Fn(TensorCore, usize) -> f32) -> Vec<TensorCore> {
    let all = [4, 8, 16, 32, 64].into_iter().flat_map(|columns| (22..29).map(move |bits| (columns, bits)));
    let fits = |core: &TensorCore| {
        sums.iter().enumerate().all(|(at, want)| sum(*core, at).to_bits() == want.to_bits())
    };
    all.map(|(columns, bits)| TensorCore { columns, bits }).filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMPERE: TensorCore = KNOWN[0].1;
    const HOPPER: TensorCore = KNOWN[1].1;

    fn pow2(exponent: i32) -> f32 {
        f32::from_bits(((127 + exponent) as u32) << 23)
    }

    /// A sum of 1, from the columns of an earlier operation, and then `x`.
    fn after_one(core: TensorCore, x: &[f32]) -> f32 {
        core.add(1.0, x, &vec![1.0; x.len()])
    }

    #[test]
    fn sums_of_small_integers_are_exact_in_any_order() {
        let numbers = |step: i32| (0..1000).map(move |i| ((i * step) % 17 - 8) as f32).collect::<Vec<_>>();
        let (x, w) = (numbers(7), numbers(5));
        let exact: f32 = x.iter().zip(&w).map(|(x, w)| x * w).sum();
        for (_, core) in KNOWN {
            assert_eq!([core.chain(&x, &w), core.split8(&x, &w)], [exact; 2]);
        }
        assert_eq!(HOPPER.chain(&[0.0; 32], &[1.0; 32]), 0.0);
    }

    #[test]
    fn terms_are_cut_below_the_largest_and_the_sum_to_f32() {
        // Four times 2^-25 are one unit of 1 in f32: kept with 25 bits, lost with 24.
        assert_eq!(after_one(HOPPER, &[pow2(-25); 4]), 1.0 + f32::EPSILON);
        assert_eq!(after_one(AMPERE, &[pow2(-25); 4]), 1.0);
        assert_eq!(after_one(HOPPER, &[pow2(-26); 16]), 1.0);
        // Towards zero, whatever the sign: three of them would be rounded up.
        assert_eq!(after_one(HOPPER, &[pow2(-25); 3]), 1.0);
        assert_eq!(HOPPER.add(-1.0, &[pow2(-25); 3], &[-1.0; 3]), -1.0);
        // Below 1 an f32 is finer.
        assert_eq!(after_one(HOPPER, &[-pow2(-24)]), 1.0 - pow2(-24));
    }

    #[test]
    fn a_product_of_two_and_more_keeps_its_factors_exponent() {
        // 1.5 * 1.5 = 2.25 has exponent 0 among the terms, so 2^-25 is not cut.
        let x = [1.5, pow2(-25), pow2(-25)];
        let sum = HOPPER.add(0.0, &x, &[1.5, 1.0, 1.0]);
        assert_eq!(sum, 2.25);
        let fine = TensorCore { columns: 16, bits: 25 }.add(-1.25, &x, &[1.5, 1.0, 1.0]);
        assert_eq!(fine, 1.0, "cut to f32");
        assert_eq!(HOPPER.add(-1.5, &x, &[1.5, 1.0, 1.0]), 0.75 + pow2(-24));
    }

    #[test]
    fn columns_of_one_operation_count_together() {
        let x = [[pow2(-25); 2], [0.0; 2], [0.0; 2], [0.0; 2]].concat().repeat(2);
        let (w, one) = ([1.0; 16], [1.0; 16]);
        let first: Vec<f32> = std::iter::once(1.0).chain([0.0; 15]).collect();
        let both = |core: TensorCore| core.chain(&[&first[..], &x].concat(), &[&one[..], &w].concat());
        assert_eq!(both(HOPPER), 1.0 + f32::EPSILON);
        assert_eq!(both(TensorCore { columns: 8, bits: 25 }), 1.0);
    }

    /// Numbers of very different sizes, all of them bf16.
    fn uneven(num: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let value = |bits: u32| {
            let size = pow2((bits >> 8) as i32 % 12) * (1.0 + (bits & 127) as f32 / 128.0);
            if bits & 128 == 0 { size } else { -size }
        };
        (0..num).map(|_| value(next())).collect()
    }

    #[test]
    fn orders_differ_and_are_told_apart() {
        let (x, w) = (uneven(4096, 1), uneven(64 * 4096, 2));
        let rows: Vec<&[f32]> = w.chunks(4096).collect();
        let of = |sum: fn(TensorCore, &[f32], &[f32]) -> f32, core| {
            rows.iter().map(|w| sum(core, &x, w)).collect::<Vec<f32>>()
        };
        let ours = of(TensorCore::split8, HOPPER);
        let chains = of(TensorCore::chain, HOPPER);
        assert!(ours.iter().zip(&chains).filter(|(a, b)| a != b).count() > 32);
        assert_eq!(fitting(&ours, |core, at| core.split8(&x, rows[at])), [HOPPER]);
        assert!(fitting(&ours, |core, at| core.chain(&x, rows[at])).is_empty());
        let exact = |w: &&[f32]| x.iter().zip(*w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
        for (sum, w) in ours.iter().zip(&rows) {
            let size: f64 = x.iter().zip(*w).map(|(x, w)| f64::from(x * w).abs()).sum();
            assert!((f64::from(*sum) - exact(w)).abs() < 1e-5 * size);
        }
    }
}
