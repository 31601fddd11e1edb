//! The linear op: near f64, and the same bits for any number of rows, segments, threads and places.

use crate::support::{Random, all_kernels, assert_near, assert_same, cpu, decode, encode, rounded};
use nvllm_cpu::{ActMode, Cpu, Elem, ExpertRows, Isa, Rows, RowsMut, Segment, SumOrder, Weights};
use proptest::prelude::*;

const KS: [usize; 7] = [8, 19, 64, 111, 989, 1024, 3072];
const WEIGHTS: [Elem; 3] = [Elem::F32, Elem::Bf16, Elem::F16];
const MODES: [ActMode; 2] = [ActMode::F32, ActMode::Bf16];

/// One product to test: x and W as stored.
struct Case {
    m: usize,
    n: usize,
    k: usize,
    x: Vec<u8>,
    x_elem: Elem,
    w: Vec<u8>,
    w_elem: Elem,
    mode: ActMode,
    bias: Option<Vec<f32>>,
}

impl Case {
    fn new(seed: u64, (m, n, k): (usize, usize, usize), w_elem: Elem, mode: ActMode) -> Self {
        let mut random = Random::new(seed);
        let x_elem = if mode == ActMode::Bf16 && seed.is_multiple_of(2) { Elem::Bf16 } else { Elem::F32 };
        let mut x = random.values(m * k);
        if mode == ActMode::Bf16 {
            x = rounded(&x, Elem::Bf16);
        }
        let w = random.values(n * k);
        let bias = seed.is_multiple_of(3).then(|| random.values(n));
        Self { m, n, k, x: encode(&x, x_elem), x_elem, w: encode(&w, w_elem), w_elem, mode, bias }
    }

    /// The first `m` rows, as f32 bytes, with the weight in segments of the given rows.
    fn run(&self, cpu: &mut Cpu, m: usize, segment_rows: &[usize]) -> Vec<u8> {
        self.run_rows(cpu, 0, m, segment_rows)
    }

    fn run_rows(&self, cpu: &mut Cpu, first: usize, m: usize, segment_rows: &[usize]) -> Vec<u8> {
        let mut out = vec![0xffu8; m * self.n * 4];
        let row = self.k * self.x_elem.size();
        let x = Rows::new(&self.x[first * row..(first + m) * row], self.x_elem, m, self.k).unwrap();
        let mut at = 0;
        let segments: Vec<_> = segment_rows
            .iter()
            .map(|rows| {
                let len = rows * self.k * self.w_elem.size();
                at += len;
                Segment::Dense(&self.w[at - len..at], self.w_elem)
            })
            .collect();
        assert_eq!(at, self.w.len(), "segments cover the weight");
        let w = Weights { segments: &segments, k: self.k };
        let to = RowsMut::new(&mut out, Elem::F32, m, self.n).unwrap();
        cpu.linear(x, w, self.bias.as_deref(), self.mode, to).unwrap();
        out
    }

    /// Exact results, and for each the bound `(k / 16 + 6) u * sum |x w|`: the chains have k / 16
    /// roundings, the fold and the bias 5 more (Higham, 2002, section 3.1), u = 2^-24. `vdpbf16ps`
    /// rounds twice per pair, and takes subnormals as zero.
    fn exact(&self, order: SumOrder) -> (Vec<f64>, Vec<f64>) {
        let (x, w) = (decode(&self.x, self.x_elem), decode(&self.w, self.w_elem));
        let (mut y, mut bound) = (Vec::new(), Vec::new());
        let roundings = self.k as f64 / 16.0 + 6.0;
        let factor = if order == SumOrder::Fma16 { 1.0 } else { 4.0 };
        for i in 0..self.m {
            for j in 0..self.n {
                let (mut sum, mut size) = (0.0f64, 0.0f64);
                for c in 0..self.k {
                    let p = f64::from(x[i * self.k + c]) * f64::from(w[j * self.k + c]);
                    sum += p;
                    size += p.abs();
                }
                if let Some(bias) = &self.bias {
                    sum += f64::from(bias[j]);
                    size += f64::from(bias[j].abs());
                }
                y.push(sum);
                bound.push(factor * roundings * size * f64::from(f32::EPSILON) / 2.0);
            }
        }
        (y, bound)
    }
}

#[test]
fn every_isa_is_near_exact_arithmetic() {
    for kernels in all_kernels() {
        let mut cpu = cpu(kernels, 2);
        for (i, k) in KS.into_iter().enumerate() {
            for w_elem in WEIGHTS {
                for mode in MODES {
                    for (m, n) in [(1, 21), (5, 7), (19, 35)] {
                        let case = Case::new(i as u64, (m, n, k), w_elem, mode);
                        let order = kernels.linear_order(w_elem, mode);
                        let got = decode(&case.run(&mut cpu, m, &[n]), Elem::F32);
                        let (want, bound) = case.exact(order);
                        let what = format!("{kernels:?} {w_elem:?} {mode:?} {m} x {n} x {k}");
                        assert_near(&what, &got, &want, |i| bound[i]);
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_alone_and_among_others_has_the_same_bits() {
    for kernels in all_kernels() {
        let mut cpu = cpu(kernels, 2);
        for (i, k) in KS.into_iter().enumerate() {
            let n = [1, 3, 21, 37][i % 4];
            for w_elem in WEIGHTS {
                for mode in MODES {
                    let case = Case::new(100 + i as u64, (17, n, k), w_elem, mode);
                    let alone: Vec<u8> =
                        (0..17).flat_map(|row| case.run_rows(&mut cpu, row, 1, &[n])).collect();
                    for m in 1..=17 {
                        let together = case.run(&mut cpu, m, &[n]);
                        let what = format!("{kernels:?} {w_elem:?} {mode:?} m {m} of {n} x {k}");
                        assert_same(&what, &together, &alone[..m * n * 4]);
                    }
                }
            }
        }
    }
}

#[test]
fn many_rows_have_the_bits_of_one() {
    // Above the number of rows that are packed at once.
    for kernels in all_kernels().into_iter().filter(|k| k.isa() != Isa::Scalar) {
        let mut cpu = cpu(kernels, 2);
        for mode in MODES {
            let case = Case::new(7, (1001, 9, 200), Elem::Bf16, mode);
            let all = case.run(&mut cpu, 1001, &[9]);
            for row in [0, 1, 503, 504, 505, 777, 1000] {
                let alone = case.run_rows(&mut cpu, row, 1, &[9]);
                assert_same(&format!("{kernels:?} row {row}"), &all[row * 36..row * 36 + 36], &alone);
            }
        }
    }
}

#[test]
fn segments_threads_and_places_change_no_bit() {
    for kernels in all_kernels() {
        for mode in MODES {
            let case = Case::new(3, (33, 600, 111), Elem::Bf16, mode);
            for m in [1, 4, 8, 33] {
                let mut one = cpu(kernels, 1);
                let want = case.run(&mut one, m, &[600]);
                for threads in 1..=4 {
                    let mut cpu = cpu(kernels, threads);
                    for segments in [&[600][..], &[1, 599], &[256, 0, 256, 88], &[599, 1, 0]] {
                        let what = format!("{kernels:?} m {m}, {threads} threads, segments {segments:?}");
                        assert_same(&what, &case.run(&mut cpu, m, segments), &want);
                    }
                }
            }
        }
    }
    // A mapped file aligns a tensor to anything; kernels must not care even about odd addresses.
    for kernels in all_kernels() {
        let mut cpu = cpu(kernels, 1);
        for elem in WEIGHTS {
            let case = Case::new(5, (4, 12, 77), elem, ActMode::F32);
            let want = case.run(&mut cpu, 4, &[12]);
            for shift in [1, 2, 6] {
                let mut moved = vec![0u8; shift];
                moved.extend_from_slice(&case.w);
                let x = Rows::new(&case.x, case.x_elem, 4, 77).unwrap();
                let mut out = vec![0u8; want.len()];
                let to = RowsMut::new(&mut out, Elem::F32, 4, 12).unwrap();
                let w = Weights { segments: &[Segment::Dense(&moved[shift..], elem)], k: 77 };
                cpu.linear(x, w, case.bias.as_deref(), case.mode, to).unwrap();
                assert_same(&format!("{kernels:?} {elem:?} shifted by {shift}"), &out, &want);
            }
        }
    }
}

#[test]
fn all_isas_share_the_fma_order() {
    let all = all_kernels();
    for (i, k) in KS.into_iter().enumerate() {
        for w_elem in WEIGHTS {
            let case = Case::new(200 + i as u64, (7, 10, k), w_elem, ActMode::F32);
            let want = case.run(&mut cpu(all[0], 1), 7, &[10]);
            for kernels in &all[1..] {
                let got = case.run(&mut cpu(kernels, 1), 7, &[10]);
                assert_same(&format!("{kernels:?} against {:?}, k {k}", all[0]), &got, &want);
            }
        }
    }
}

#[test]
fn the_output_is_rounded_once_to_its_type_and_stays_within_its_columns() {
    for kernels in all_kernels() {
        let mut cpu = cpu(kernels, 2);
        let case = Case::new(9, (5, 6, 40), Elem::F32, ActMode::F32);
        let want = encode(&decode(&case.run(&mut cpu, 5, &[6]), Elem::F32), Elem::Bf16);
        let mut wide = vec![0xabu8; 5 * 10 * 2];
        let to = RowsMut::new(&mut wide, Elem::Bf16, 5, 10).unwrap().columns(3, 6).unwrap();
        let x = Rows::new(&case.x, case.x_elem, 5, 40).unwrap();
        let w = Weights { segments: &[Segment::Dense(&case.w, Elem::F32)], k: 40 };
        cpu.linear(x, w, case.bias.as_deref(), ActMode::F32, to).unwrap();
        for row in 0..5 {
            let line = &wide[row * 20..row * 20 + 20];
            assert_same("written columns", &line[6..18], &want[row * 12..row * 12 + 12]);
            assert!(line[..6].iter().chain(&line[18..]).all(|b| *b == 0xab), "columns around are untouched");
        }
    }
}

#[test]
fn experts_have_the_bits_of_plain_linears() {
    for kernels in all_kernels() {
        let mut random = Random::new(11);
        let mut cpu = cpu(kernels, 2);
        let (tokens, per_token, n, k, num_experts) = (40, 2, 10, 72, 5);
        let x = encode(&random.values(tokens * k), Elem::F32);
        let experts: Vec<Vec<u8>> =
            (0..num_experts).map(|_| encode(&random.values(n * k), Elem::Bf16)).collect();
        let mut chosen = vec![(Vec::new(), Vec::new()); num_experts];
        for row in 0..tokens * per_token {
            // The first expert gets most rows, the last none.
            let e = random.below(8).saturating_sub(4);
            chosen[e].0.push((row / per_token) as u32);
            chosen[e].1.push(row as u32);
        }
        let lists: Vec<ExpertRows<'_>> = experts
            .iter()
            .zip(&chosen)
            .map(|(weight, (x_rows, out_rows))| ExpertRows {
                weight: Segment::Dense(weight, Elem::Bf16),
                x_rows,
                out_rows,
            })
            .collect();
        let mut out = vec![0u8; tokens * per_token * n * 4];
        let rows = Rows::new(&x, Elem::F32, tokens, k).unwrap();
        let to = RowsMut::new(&mut out, Elem::F32, tokens * per_token, n).unwrap();
        cpu.expert_linear(rows, &lists, ActMode::F32, to).unwrap();
        for (e, (x_rows, out_rows)) in chosen.iter().enumerate() {
            for (from, to) in x_rows.iter().zip(out_rows) {
                let mut alone = vec![0u8; n * 4];
                let row = Rows::new(&x[*from as usize * k * 4..][..k * 4], Elem::F32, 1, k).unwrap();
                let w = Weights { segments: &[Segment::Dense(&experts[e], Elem::Bf16)], k };
                cpu.linear(row, w, None, ActMode::F32, RowsMut::new(&mut alone, Elem::F32, 1, n).unwrap())
                    .unwrap();
                let got = &out[*to as usize * n * 4..][..n * 4];
                assert_same(&format!("{kernels:?} expert {e} row {to}"), got, &alone);
            }
        }
    }
}

#[test]
fn wrong_extents_are_errors_that_say_so() {
    let mut cpu = cpu(all_kernels()[0], 1);
    let bytes = [0u8; 64];
    let x = Rows::new(&bytes, Elem::F32, 4, 4).unwrap();
    let mut out = [0u8; 64];
    let to = |rows, cols| {
        RowsMut::new(Box::leak(Box::new([0u8; 64]))[..rows * cols * 4].as_mut(), Elem::F32, rows, cols)
            .unwrap()
    };
    let w = |bytes: &'static [u8], k| Weights {
        segments: Box::leak(Box::new([Segment::Dense(bytes, Elem::F32)])),
        k,
    };
    let error = cpu.linear(x, w(&[0; 32], 2), None, ActMode::F32, to(4, 4)).unwrap_err();
    assert_eq!(error.to_string(), "linear: x has 4 columns, the weight 2");
    let error = cpu.linear(x, w(&[0; 33], 4), None, ActMode::F32, to(4, 2)).unwrap_err();
    assert_eq!(error.to_string(), "linear: weight segments are not whole rows of 4");
    let error = cpu.linear(x, w(&[0; 32], 4), None, ActMode::F32, to(4, 3)).unwrap_err();
    assert_eq!(error.to_string(), "linear: 4 rows by 2 outputs into 4 x 3");
    let error = cpu.linear(x, w(&[0; 32], 4), Some(&[0.0]), ActMode::F32, to(4, 2)).unwrap_err();
    assert_eq!(error.to_string(), "linear: a bias of another length than 2");
    assert!(cpu.linear(x, w(&[], 0), None, ActMode::F32, to(4, 0)).is_err());
    assert!(Rows::new(&bytes, Elem::F32, 4, 5).is_err());
    assert!(Rows::new(&bytes, Elem::F32, usize::MAX, 5).is_err());
    assert!(x.columns(3, 2).is_err());
    let twice = ExpertRows { weight: Segment::Dense(&bytes, Elem::F32), x_rows: &[0, 1], out_rows: &[2, 2] };
    let to = RowsMut::new(&mut out, Elem::F32, 4, 4).unwrap();
    let error = cpu.expert_linear(x, &[twice], ActMode::F32, to).unwrap_err();
    assert_eq!(error.to_string(), "expert_linear: output row 2 is beyond 4 or named twice");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Any shape: near exact arithmetic, and any two ways to cut it agree.
    #[test]
    fn any_shape(
        seed in 0u64..1000,
        m in 1usize..30,
        n in 1usize..40,
        k in 1usize..300,
        w_elem in prop::sample::select(&WEIGHTS[..]),
        mode in prop::sample::select(&MODES[..]),
        cut in 0.0f64..1.0,
        threads in 1usize..4,
    ) {
        let case = Case::new(seed, (m, n, k), w_elem, mode);
        for kernels in all_kernels() {
            let whole = case.run(&mut cpu(kernels, 1), m, &[n]);
            let (want, bound) = case.exact(kernels.linear_order(w_elem, mode));
            assert_near(&format!("{kernels:?}"), &decode(&whole, Elem::F32), &want, |i| bound[i]);
            let at = (cut * n as f64) as usize;
            let rows = 1 + (cut * (m - 1) as f64) as usize;
            let mut cpu = cpu(kernels, threads);
            let mut parts = case.run_rows(&mut cpu, 0, rows, &[at, n - at]);
            if rows < m {
                parts.extend(case.run_rows(&mut cpu, rows, m - rows, &[n - at, at]));
            }
            assert_same(&format!("{kernels:?} cut at row {rows}, column {at}"), &parts, &whole);
        }
    }
}
