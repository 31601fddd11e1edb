//! Row ops: near f64, rows independent of each other, the same bits on every instruction set.

use crate::support::{Random, all_kernels, assert_near, assert_same, cpu, decode, encode, rounded, unit};
use nvllm_cpu::{Cpu, Elem, NormWeight, Rows, RowsMut, Segment};

const STORAGE: [Elem; 2] = [Elem::F32, Elem::Bf16];
const COLS: [usize; 7] = [1, 8, 19, 64, 111, 128, 989];

/// Runs `op` on the rows of `x` for every kernel set; checks it against `want` (relative to `size`
/// of the value), that rows alone give the same bits, and that all kernels agree.
fn check(
    what: &str,
    x: &[f32],
    (rows, cols, out_cols): (usize, usize, usize),
    want: impl Fn(usize, &[f32]) -> Vec<(f64, f64)>,
    op: impl Fn(&Cpu, usize, Rows<'_>, RowsMut<'_>),
) {
    for from in STORAGE {
        for to in STORAGE {
            let stored = encode(x, from);
            let exact: Vec<(f64, f64)> =
                rounded(x, from).chunks(cols).enumerate().flat_map(|(r, row)| want(r, row)).collect();
            let mut first: Option<Vec<u8>> = None;
            for kernels in all_kernels() {
                let what = format!("{what} {kernels:?} {from:?} to {to:?}, {rows} x {cols}");
                let cpu = cpu(kernels, 2);
                let mut out = vec![0u8; rows * out_cols * to.size()];
                let view = Rows::new(&stored, from, rows, cols).unwrap();
                op(&cpu, 0, view, RowsMut::new(&mut out, to, rows, out_cols).unwrap());
                let values: Vec<f64> = exact.iter().map(|e| e.0).collect();
                assert_near(&what, &decode(&out, to), &values, |i| {
                    unit(to) * exact[i].0.abs() + 4.0 * f64::from(f32::EPSILON) * exact[i].1
                });
                for row in 0..rows {
                    let mut alone = vec![0u8; out_cols * to.size()];
                    let bytes = &stored[row * cols * from.size()..][..cols * from.size()];
                    let view = Rows::new(bytes, from, 1, cols).unwrap();
                    op(&cpu, row, view, RowsMut::new(&mut alone, to, 1, out_cols).unwrap());
                    let together = &out[row * out_cols * to.size()..][..out_cols * to.size()];
                    assert_same(&format!("{what}, row {row} alone"), together, &alone);
                }
                let first = first.get_or_insert_with(|| out.clone());
                assert_same(&format!("{what}, against the first kernels"), &out, first);
            }
        }
    }
}

#[test]
fn convert_is_rounding() {
    for cols in COLS {
        let x = Random::new(1).values(3 * cols);
        check(
            "convert",
            &x,
            (3, cols, cols),
            |_, row| row.iter().map(|v| (f64::from(*v), 0.0)).collect(),
            |cpu, _, x, out| cpu.convert(x, out).unwrap(),
        );
    }
}

#[test]
fn bf16_rounding_is_exact_at_the_edges() {
    let bits = [
        0x3f80_8000u32,
        0x3f81_8000,
        0x3f80_7fff,
        0x3f80_8001,
        0x7f7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0001,
        0x7f80_0001,
        0xff80_ffff,
        0x0000_0001,
        0x0000_8000,
        0x0001_8000,
        0x8000_8001,
        0x8000_0000,
        0x0080_0000,
    ];
    let x: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).collect();
    let stored: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
    let want = encode(&x, Elem::Bf16);
    for kernels in all_kernels() {
        let mut out = vec![0u8; want.len()];
        let to = RowsMut::new(&mut out, Elem::Bf16, 1, bits.len()).unwrap();
        cpu(kernels, 1).convert(Rows::new(&stored, Elem::F32, 1, bits.len()).unwrap(), to).unwrap();
        assert_same(&format!("{kernels:?}"), &out, &want);
    }
}

#[test]
fn add_adds() {
    for cols in COLS {
        let x = Random::new(2).values(3 * 2 * cols);
        check(
            "add",
            &x,
            (3, 2 * cols, cols),
            |_, row| {
                let (a, b) = row.split_at(cols);
                a.iter().zip(b).map(|(a, b)| (f64::from(*a) + f64::from(*b), 0.0)).collect()
            },
            |cpu, _, x, out| {
                let (a, b) = (x.columns(0, cols).unwrap(), x.columns(cols, cols).unwrap());
                cpu.add(a, b, out).unwrap();
            },
        );
    }
}

#[test]
fn silu_mul_gates() {
    for cols in COLS {
        let mut x = Random::new(3).values(4 * 2 * cols);
        for (i, v) in x.iter_mut().enumerate() {
            // Gates far out on both sides as well.
            *v *= [1.0, 1.0, 5.0, 25.0][i / (2 * cols)];
        }
        check(
            "silu_mul",
            &x,
            (4, 2 * cols, cols),
            |_, row| {
                let (gate, up) = row.split_at(cols);
                let silu = |g: f64| g / (1.0 + (-g).exp());
                gate.iter()
                    .zip(up)
                    .map(|(g, u)| (silu(f64::from(*g)) * f64::from(*u), f64::from(u.abs()) * 1e-30))
                    .collect()
            },
            |cpu, _, x, out| cpu.silu_mul(x, out).unwrap(),
        );
    }
}

#[test]
fn silu_of_extremes_is_finite_or_nan_as_it_should_be() {
    let gate = [0.0f32, -0.0, 88.0, -88.0, 1e4, -1e4, 3e38, -1e30, f32::NAN];
    for kernels in all_kernels() {
        let n = gate.len();
        let mut x = gate.to_vec();
        x.extend(vec![1.0; n]);
        let mut out = vec![0u8; 4 * n];
        let to = RowsMut::new(&mut out, Elem::F32, 1, n).unwrap();
        cpu(kernels, 1)
            .silu_mul(Rows::new(&encode(&x, Elem::F32), Elem::F32, 1, 2 * n).unwrap(), to)
            .unwrap();
        let got = decode(&out, Elem::F32);
        assert!(got[8].is_nan() && got[..8].iter().all(|v| v.is_finite()), "{kernels:?} {got:?}");
        assert_eq!((got[0], got[4], got[6]), (0.0, 1e4, 3e38), "{kernels:?}");
        assert!(got[3].abs() < 1e-35 && got[5].abs() < 1e-33 && got[7].abs() < 1e-8, "{kernels:?} {got:?}");
    }
}

#[test]
fn rms_norm_normalises_groups() {
    for n in COLS {
        for weight_elem in [Elem::F32, Elem::Bf16, Elem::F16] {
            let mut random = Random::new(4);
            let (groups, eps) = (3, 1e-6f32);
            let x = random.values(2 * groups * n);
            let weight = encode(&random.values(n), weight_elem);
            let w = decode(&weight, weight_elem);
            check(
                "rms_norm",
                &x,
                (2, groups * n, groups * n),
                |_, row| {
                    let mut out = Vec::new();
                    for group in row.chunks(n) {
                        let mean = group.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64;
                        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
                        for (v, w) in group.iter().zip(&w) {
                            let y = f64::from(*v) * scale * f64::from(*w);
                            out.push((y, y.abs() * (2.0 + n as f64 / 64.0)));
                        }
                    }
                    out
                },
                |cpu, _, x, out| {
                    let weight = NormWeight { bytes: &weight, elem: weight_elem };
                    cpu.rms_norm(x, weight, eps, out).unwrap();
                },
            );
        }
    }
}

#[test]
fn rope_rotates_half_split_pairs_and_copies_the_rest() {
    for (head_dim, half) in [(8, 4), (64, 32), (24, 12), (128, 64), (16, 4), (22, 11), (8, 0)] {
        let mut random = Random::new(5);
        let (rows, heads) = (4, 3);
        let x = random.values(rows * heads * head_dim);
        let angles: Vec<f32> = random.values(rows * half);
        let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        let all = |row: usize, rows: usize| {
            (&cos[row * half..(row + rows) * half], &sin[row * half..(row + rows) * half])
        };
        check(
            "rope",
            &x,
            (rows, heads * head_dim, heads * head_dim),
            |r, row| {
                let mut out = Vec::new();
                for head in row.chunks(head_dim) {
                    for (i, v) in head.iter().enumerate() {
                        let at = |i: usize| f64::from(head[i]);
                        let (c, s) = (
                            |i: usize| f64::from(cos[r * half + i]),
                            |i: usize| f64::from(sin[r * half + i]),
                        );
                        let (y, size) = if i < half {
                            (at(i) * c(i) - at(i + half) * s(i), at(i).abs() + at(i + half).abs())
                        } else if i < 2 * half {
                            let j = i - half;
                            (at(i) * c(j) + at(j) * s(j), at(i).abs() + at(j).abs())
                        } else {
                            (f64::from(*v), 0.0)
                        };
                        out.push((y, size));
                    }
                }
                out
            },
            |cpu, row, x, out| {
                let rows = x.num_rows();
                cpu.rope(x, head_dim, all(row, rows), out).unwrap();
            },
        );
    }
}

#[test]
fn gather_picks_rows_over_segments() {
    for kernels in all_kernels() {
        let cpu = cpu(kernels, 2);
        for elem in [Elem::F32, Elem::Bf16, Elem::F16] {
            let values = Random::new(6).values(10 * 19);
            let table = encode(&values, elem);
            let row = 19 * elem.size();
            let segments =
                [&table[..3 * row], &[], &table[3 * row..]].map(|bytes| Segment::Dense(bytes, elem));
            let ids = [9, 0, 2, 3, 3, 7];
            for to in STORAGE {
                let mut out = vec![0u8; ids.len() * 19 * to.size()];
                cpu.gather(&segments, &ids, RowsMut::new(&mut out, to, ids.len(), 19).unwrap()).unwrap();
                let stored = rounded(&values, elem);
                let want: Vec<f32> =
                    ids.iter().flat_map(|id| stored[*id as usize * 19..][..19].to_vec()).collect();
                assert_same(&format!("{kernels:?} {elem:?} to {to:?}"), &out, &encode(&want, to));
            }
            let mut out = vec![0u8; 19 * 4];
            let to = RowsMut::new(&mut out, Elem::F32, 1, 19).unwrap();
            let error = cpu.gather(&segments, &[10], to).unwrap_err();
            assert_eq!(error.to_string(), "gather: id 10 in a table of 10 rows");
        }
    }
}

#[test]
fn weighted_sum_adds_in_order() {
    let (cols, k) = (111, 3);
    let mut random = Random::new(7);
    let x = random.values(12 * cols);
    let weights = random.values(4 * k);
    let rows: Vec<u32> = (0..12).rev().collect();
    let mut first: Option<Vec<u8>> = None;
    for kernels in all_kernels() {
        let stored = encode(&x, Elem::F32);
        let mut out = vec![0u8; 4 * cols * 4];
        let to = RowsMut::new(&mut out, Elem::F32, 4, cols).unwrap();
        let view = Rows::new(&stored, Elem::F32, 12, cols).unwrap();
        cpu(kernels, 2).weighted_sum(view, &rows, &weights, to).unwrap();
        let (mut want, mut size) = (vec![0.0f64; 4 * cols], vec![0.0f64; 4 * cols]);
        for r in 0..4 {
            for j in 0..k {
                for c in 0..cols {
                    let p = f64::from(weights[r * k + j]) * f64::from(x[rows[r * k + j] as usize * cols + c]);
                    want[r * cols + c] += p;
                    size[r * cols + c] += p.abs();
                }
            }
        }
        assert_near("weighted_sum", &decode(&out, Elem::F32), &want, |i| 2e-7 * size[i]);
        let first = first.get_or_insert_with(|| out.clone());
        assert_same(&format!("{kernels:?}"), &out, first);
    }
}

#[test]
fn wrong_extents_are_errors() {
    let cpu = cpu(all_kernels()[0], 1);
    let bytes = [0u8; 48];
    let x = Rows::new(&bytes, Elem::F32, 3, 4).unwrap();
    let mut a = [0u8; 48];
    let out = || RowsMut::new(Box::leak(Box::new([0u8; 48])), Elem::F32, 4, 3).unwrap();
    assert!(cpu.convert(x, out()).is_err());
    assert!(cpu.add(x, x, out()).is_err());
    assert!(cpu.silu_mul(x, out()).is_err());
    let weight = NormWeight { bytes: &bytes[..12], elem: Elem::F32 };
    let error = cpu.rms_norm(x, weight, 1e-6, RowsMut::new(&mut a, Elem::F32, 3, 4).unwrap()).unwrap_err();
    assert!(error.to_string().starts_with("rms_norm: 4 columns, weight of 12 bytes"), "{error}");
    assert!(cpu.rope(x, 4, (&[0.0; 6], &[0.0; 5]), RowsMut::new(&mut a, Elem::F32, 3, 4).unwrap()).is_err());
    assert!(cpu.rope(x, 4, (&[0.0; 9], &[0.0; 9]), RowsMut::new(&mut a, Elem::F32, 3, 4).unwrap()).is_err());
}
