//! Against the dense head, bit for bit: on drawn heads of every kind, and on those that are made to
//! need all of the bound.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use half::{bf16, f16};
use nvllm_core::sampling::is_usable;
use proptest::prelude::*;

use super::*;
use crate::{Isa, Kernels, PoolConfig};

fn pool() -> Arc<Pool> {
    static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
    let config = PoolConfig { threads: Some(2), pin: false, spin: Duration::from_micros(20) };
    Arc::clone(POOL.get_or_init(|| Arc::new(Pool::new(&config).unwrap())))
}

fn all_kernels() -> impl Iterator<Item = &'static Kernels> {
    Isa::ALL.into_iter().filter_map(|isa| Kernels::of(isa).ok())
}

/// Splitmix64 (Steele et al., 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Roughly normal.
    fn value(&mut self) -> f32 {
        (0..4).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32 - 0.5).sum::<f32>() * 1.7
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// A row of some kind: heavy tails, one large element, zeros, denormals, huge, not finite.
    fn row(&mut self, n: usize, not_finite: bool) -> Vec<f32> {
        let mut row = self.values(n);
        match self.below(12) {
            0 => row.fill(0.0),
            1 => row.iter_mut().for_each(|x| *x = x.powi(5)),
            2 => row[self.below(n)] = 100.0,
            3 => row.iter_mut().for_each(|x| *x *= 1e-40),
            4 if self.below(4) == 0 => row.iter_mut().for_each(|x| *x *= 1e30),
            5 if not_finite => row[self.below(n)] = f32::NAN,
            6 if not_finite => row[self.below(n)] = f32::INFINITY,
            _ => {}
        }
        row
    }
}

fn encode(x: &[f32], elem: Elem) -> Vec<u8> {
    let bytes = |x: &f32| match elem {
        Elem::F32 => x.to_le_bytes().to_vec(),
        Elem::Bf16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
        Elem::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
    };
    x.iter().flat_map(bytes).collect()
}

/// A head and hidden states as they are stored.
struct Case {
    weight: Vec<u8>,
    elem: Elem,
    x: Vec<u8>,
    k: usize,
    mode: ActMode,
}

impl Case {
    const fn act(mode: ActMode) -> Elem {
        match mode {
            ActMode::F32 => Elem::F32,
            ActMode::Bf16 => Elem::Bf16,
        }
    }

    fn rows(&self) -> Rows<'_> {
        let elem = Self::act(self.mode);
        Rows::new(&self.x, elem, self.x.len() / (self.k * elem.size()), self.k).unwrap()
    }

    fn num_rows(&self) -> usize {
        self.weight.len() / (self.k * self.elem.size())
    }

    fn head(&self) -> ExactHead {
        ExactHead::new(&pool(), &self.weight, self.elem, self.k).unwrap()
    }

    fn dense(&self, kernels: &'static Kernels) -> Vec<f32> {
        let (m, n) = (self.rows().num_rows(), self.num_rows());
        let mut out = vec![0.0_f32; m * n];
        let to = RowsMut::new(bytemuck::cast_slice_mut(&mut out), Elem::F32, m, n).unwrap();
        let w = Weights { segments: &[Segment::Dense(&self.weight, self.elem)], k: self.k };
        Cpu::new(pool(), kernels).linear(self.rows(), w, None, self.mode, to).unwrap();
        out
    }

    /// What differs from the dense head's logits, if anything that sampling looks at does.
    fn check(
        &self,
        kernels: &'static Kernels,
        head: &ExactHead,
    ) -> std::result::Result<ExactHeadCounts, String> {
        let (n, dense, weight) = (self.num_rows(), self.dense(kernels), (&self.weight[..], self.elem));
        let (mut cpu, mut counts) = (Cpu::new(pool(), kernels), ExactHeadCounts::default());
        let act = Self::act(self.mode);
        for (row, (dense, x)) in dense.chunks(n).zip(self.x.chunks(self.k * act.size())).enumerate() {
            let (x, mut out) = (Rows::new(x, act, 1, self.k).unwrap(), vec![f32::NAN; n]);
            counts += cpu.exact_head(x, weight, head, self.mode, &mut out).map_err(|e| e.to_string())?;
            let largest = dense.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (i, (d, o)) in dense.iter().zip(&out).enumerate() {
                let left_out = is_usable(dense) && *d != largest && *o == f32::NEG_INFINITY;
                let same = d.to_bits() == o.to_bits() || (d.is_nan() && o.is_nan());
                if !same && !left_out {
                    return Err(format!("{kernels:?}: logit {i} of row {row} is {o}; it is {d}"));
                }
            }
        }
        Ok(counts)
    }
}

fn draw(seed: u64, (n, k, m): (usize, usize, usize), elem: Elem, mode: ActMode) -> Case {
    let mut random = Random(seed);
    let not_finite = random.below(8) == 0;
    let mut rows: Vec<Vec<f32>> = Vec::new();
    for i in 0..n {
        // Equal rows have equal logits, and rows that are nearly equal may be mistaken.
        let copied = i > 0 && random.below(3) == 0;
        let mut row = if copied { rows[random.below(i)].clone() } else { random.row(k, not_finite) };
        if copied && random.below(2) == 0 {
            row[random.below(k)] *= 1.01;
        }
        rows.push(row);
    }
    let weight = encode(&rows.concat(), elem);
    let stored = to_f32(&weight, elem);
    let mut x = Vec::new();
    for _ in 0..m {
        // Some along a row, which is then likely to win.
        let along = &stored[random.below(n) * k..][..k];
        let own = random.row(k, true);
        let mix = random.below(3) == 0 && along.iter().all(|x| x.is_finite());
        x.extend(if mix { along.iter().zip(own).map(|(a, b)| a + 0.3 * b).collect() } else { own });
    }
    Case { weight, elem, x: encode(&x, Case::act(mode)), k, mode }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn the_largest_logits_are_those_of_the_dense_head(
        seed: u64,
        extents in (1_usize..300, 1_usize..150, 1_usize..6),
        elem in prop::sample::select(&[Elem::Bf16, Elem::F32, Elem::F16][..]),
        mode in prop::sample::select(&[ActMode::F32, ActMode::Bf16][..]),
    ) {
        let case = draw(seed, extents, elem, mode);
        let head = case.head();
        prop_assert_eq!(head.bytes(), ExactHead::bytes_for(extents.0, extents.1));
        for kernels in all_kernels() {
            if let Err(difference) = case.check(kernels, &head) {
                prop_assert!(false, "{}", difference);
            }
        }
    }
}

#[test]
fn few_logits_are_computed_again() {
    let (n, k, m) = (2048, 256, 4);
    let mut random = Random(3);
    for (elem, mode) in [(Elem::Bf16, ActMode::Bf16), (Elem::F32, ActMode::F32)] {
        let (weight, x) = (encode(&random.values(n * k), elem), random.values(m * k));
        let case = Case { weight, elem, x: encode(&x, Case::act(mode)), k, mode };
        for kernels in all_kernels() {
            let counts = case.check(kernels, &case.head()).unwrap();
            assert_eq!((counts.rows, counts.dense_rows), (4, 0), "{kernels:?}");
            assert!((4..400).contains(&counts.candidates), "{kernels:?}: {counts:?}");
        }
    }
}

/// A hidden state along the error of row 0, whose logit is then as far from that of its copy as it
/// can be, and row 1 between the two. All others are 0.
fn all_of_the_bound(elem: Elem) -> Case {
    let (n, k) = (64, 96);
    for seed in 0.. {
        let row = to_f32(&encode(&Random(seed).values(k), elem), elem);
        let mut rows = vec![0.0; n * k];
        rows[..k].copy_from_slice(&row);
        let scale = row.iter().fold(0.0_f32, |max, x| max.max(x.abs())) / 127.0;
        let h: Vec<_> = row.iter().map(|x| (x - scale * (x / scale).round_ties_even()) * 100.0).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (logit, error) = (dot(&h, &row), dot(&h, &h) / 100.0);
        if logit < 4.0 * error {
            continue;
        }
        let at = (0..k).max_by(|&a, &b| h[a].abs().total_cmp(&h[b].abs())).unwrap();
        rows[k + at] = (logit - 0.2 * error) / h[at];
        let weight = encode(&rows, elem);
        return Case { weight, elem, x: encode(&h, Elem::F32), k, mode: ActMode::F32 };
    }
    unreachable!("some row has such an error")
}

#[test]
fn a_bound_of_half_the_size_or_none_is_noticed() {
    for elem in [Elem::Bf16, Elem::F32, Elem::F16] {
        let case = all_of_the_bound(elem);
        for kernels in all_kernels() {
            let counts = case.check(kernels, &case.head()).unwrap();
            assert_eq!((counts.rows, counts.candidates), (1, 2), "{kernels:?}, {elem:?}");
            for factor in [0.5, 0.0] {
                let mut faulty = case.head();
                faulty.radii.iter_mut().for_each(|radius| *radius *= factor);
                let noticed = case.check(kernels, &faulty);
                assert!(noticed.is_err(), "{kernels:?}, {elem:?}: {factor} of the bound suffices");
            }
        }
    }
}

#[test]
fn extents_that_do_not_fit_are_errors() {
    let case = |m| draw(1, (20, 8, m), Elem::F32, ActMode::F32);
    let run = |case: &Case, weight: &[u8], num_logits: usize| {
        let mut out = vec![0.0; num_logits];
        let (weight, head) = ((weight, Elem::F32), case.head());
        Cpu::new(pool(), Kernels::best()).exact_head(case.rows(), weight, &head, ActMode::F32, &mut out)
    };
    let (two, case) = (case(2), case(1));
    assert!(run(&case, &case.weight, 20).is_ok());
    assert!(run(&case, &case.weight[32..], 20).is_err() && run(&case, &case.weight, 19).is_err());
    assert!(run(&two, &two.weight, 20).is_err());
    assert!(ExactHead::new(&pool(), &case.weight[1..], Elem::F32, 8).is_err());
    assert!(ExactHead::new(&pool(), &case.weight, Elem::F32, 0).is_err());
}
