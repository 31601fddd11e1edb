//! Coded weights: the bits of the f32 or bf16 weights that they stand for, in every form and
//! instruction set, for any number of rows; integers exactly.

use crate::support::{Random, all_kernels, assert_same, cpu, encode};
use bytes::Bytes;
use half::f16;
use nvllm_cpu::{
    ActMode, Coded, CodedForm, Codes, Cpu, Elem, ExpertRows, Formula, Isa, Rows, RowsMut, Segment, Weights,
};

static TABLE: [f32; 16] =
    [-1.0, -0.7, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0];

/// Every form that kernels take.
fn forms(k: usize) -> Vec<CodedForm> {
    let mut forms = Vec::new();
    for (codes, block) in [(Codes::U4, 32), (Codes::Table(&TABLE), 32), (Codes::I8, 16), (Codes::E4m3, 16)] {
        for formula in [Formula::Symmetric, Formula::ZeroPoint, Formula::Midpoint, Formula::Affine] {
            for scale in [Elem::F32, Elem::F16] {
                for group in [block, 2 * block, 4 * block, usize::MAX] {
                    forms.push(CodedForm { codes, formula, scale, group, k });
                }
            }
        }
    }
    let known = |form: &CodedForm| match (form.codes, form.formula, form.scale) {
        (Codes::E4m3, formula, scale) => formula == Formula::Symmetric && scale == Elem::F32,
        (Codes::I8, Formula::Midpoint, _) => false,
        (Codes::I8, Formula::Affine, scale) => scale == Elem::F32,
        (Codes::Table(_), formula, _) => formula == Formula::Symmetric,
        _ => true,
    };
    forms.retain(known);
    forms
}

/// A matrix and the values of its elements.
struct Drawn {
    coded: Coded,
    values: Vec<f32>,
    /// What the codes stand for, and the scales.
    numbers: Vec<f32>,
    scales: Vec<f32>,
}

/// FP8 by its fields, at 2^-8 of its value.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size =
        if exponent == 0 { mantissa * 2f32.powi(-9) } else { (8.0 + mantissa) * 2f32.powi(exponent - 10) };
    if code & 0x80 == 0 { size / 256.0 } else { -size / 256.0 }
}

fn draw(form: CodedForm, n: usize, seed: u64) -> Drawn {
    let mut random = Random::new(seed);
    let k = form.k;
    let groups = form.groups();
    let mut number = |size: f32| {
        let x = random.value() * size;
        if form.scale == Elem::F16 { f16::from_f32(x).to_f32() } else { x }
    };
    let scales: Vec<f32> = (0..n * groups).map(|_| number(0.1)).collect();
    let offsets: Vec<f32> = (0..n * groups).map(|_| number(3.0)).collect();
    let mut codes = vec![0u8; n * form.row_bytes()];
    let (mut values, mut numbers) = (vec![0.0; n * k], vec![0.0; n * k]);
    for row in 0..n {
        let codes = &mut codes[row * form.row_bytes()..][..form.row_bytes()];
        for col in 0..k {
            let raw = random.next() as u8;
            let c = match form.codes {
                Codes::U4 | Codes::Table(_) => {
                    let (raw, at) = (raw & 15, col / 32 * 16 + col % 16);
                    codes[at] |= if col % 32 < 16 { raw } else { raw << 4 };
                    if let Codes::Table(table) = form.codes { table[raw as usize] } else { f32::from(raw) }
                }
                Codes::I8 => {
                    codes[col] = raw;
                    f32::from(raw as i8)
                }
                Codes::E4m3 => {
                    let raw = if raw & 0x7f == 0x7f { 0 } else { raw };
                    codes[col] = raw;
                    e4m3(raw)
                }
            };
            numbers[row * k + col] = c;
            let at = row * groups + col / form.group;
            values[row * k + col] = match form.formula {
                Formula::Symmetric => scales[at] * c,
                Formula::ZeroPoint => scales[at] * (c - offsets[at]),
                Formula::Midpoint => scales[at] * (c - 8.0),
                Formula::Affine => scales[at].mul_add(c, offsets[at]),
            };
        }
    }
    let stored = |numbers: &[f32]| -> Bytes {
        let bytes = numbers.iter().flat_map(|x| match form.scale {
            Elem::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
            _ => x.to_le_bytes().to_vec(),
        });
        bytes.collect::<Vec<_>>().into()
    };
    let offsets = if form.has_offsets() { stored(&offsets) } else { Bytes::new() };
    let coded = Coded::new(form, n, [codes.into(), stored(&scales), offsets]).unwrap();
    Drawn { coded, values, numbers, scales }
}

fn bytes_of(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn product(cpu: &mut Cpu, x: &[u8], m: usize, segments: &[Segment<'_>], (n, k): (usize, usize)) -> Vec<u8> {
    let mut out = vec![0xffu8; m * n * 4];
    let x = Rows::new(&x[..m * k * 4], Elem::F32, m, k).unwrap();
    let to = RowsMut::new(&mut out, Elem::F32, m, n).unwrap();
    cpu.linear(x, Weights { segments, k }, None, ActMode::F32, to).unwrap();
    out
}

/// Under bf16 activations, rounded to bf16 where kernels multiply pairs of bf16.
#[test]
fn under_bf16_activations_it_has_the_bits_of_one_type_of_values() {
    for kernels in all_kernels() {
        let elem = kernels.coded(ActMode::Bf16).elem;
        assert_eq!(elem == Elem::Bf16, kernels.isa() == Isa::Avx512Bf16);
        let mut cpu = cpu(kernels, 2);
        for (seed, (n, k)) in [(3, 40), (7, 192), (21, 256), (37, 1024)].into_iter().enumerate() {
            let x = encode(&Random::new(7).values(40 * k), Elem::Bf16);
            for form in forms(k) {
                let drawn = draw(form, n, seed as u64);
                let dense = encode(&drawn.values, elem);
                for m in [1, 2, 7, 40] {
                    let mut run = |segment| {
                        let mut out = vec![0xffu8; m * n * 4];
                        let x = Rows::new(&x[..m * k * 2], Elem::Bf16, m, k).unwrap();
                        let to = RowsMut::new(&mut out, Elem::F32, m, n).unwrap();
                        cpu.linear(x, Weights { segments: &[segment], k }, None, ActMode::Bf16, to).unwrap();
                        out
                    };
                    let (got, want) =
                        (run(Segment::Coded(&drawn.coded, 0, n)), run(Segment::Dense(&dense, elem)));
                    assert_same(&format!("{kernels:?} {form:?} {n} rows of {m}"), &got, &want);
                }
            }
        }
    }
}

#[test]
fn a_coded_weight_has_the_bits_of_its_values() {
    for kernels in all_kernels() {
        let mut cpu = cpu(kernels, 2);
        for (seed, (n, k)) in [(1, 8), (3, 32), (21, 77), (9, 160), (37, 1024)].into_iter().enumerate() {
            let x = bytes_of(&Random::new(7).values(40 * k));
            for form in forms(k) {
                let drawn = draw(form, n, seed as u64);
                let dense = bytes_of(&drawn.values);
                let segments = [Segment::Dense(&dense, Elem::F32)];
                let what = format!("{kernels:?} {form:?} {n} rows");
                for m in [1, 2, 7, 40] {
                    let want = product(&mut cpu, &x, m, &segments, (n, k));
                    let coded = [Segment::Coded(&drawn.coded, 0, n)];
                    assert_same(&format!("{what} of {m}"), &product(&mut cpu, &x, m, &coded, (n, k)), &want);
                }
                let ids: Vec<u32> = (0..n as u32).rev().collect();
                let mut rows = vec![0u8; n * k * 4];
                let to = RowsMut::new(&mut rows, Elem::F32, n, k).unwrap();
                cpu.gather(&[Segment::Coded(&drawn.coded, 0, n)], &ids, to).unwrap();
                let want: Vec<u8> =
                    ids.iter().flat_map(|id| dense[*id as usize * k * 4..][..k * 4].to_vec()).collect();
                assert_same(&format!("{what}, gathered"), &rows, &want);
            }
        }
    }
}

/// Parts of a weight, and experts of a stack, begin anywhere.
#[test]
fn parts_and_experts_may_be_coded_and_dense() {
    let (n, k) = (23, 96);
    for kernels in all_kernels() {
        let mut cpu = cpu(kernels, 2);
        let x = bytes_of(&Random::new(3).values(9 * k));
        let form = forms(k)[0];
        let (a, b) = (draw(form, n, 1), draw(form, n, 2));
        let dense = [bytes_of(&a.values), bytes_of(&b.values)];
        let row = k * 4;
        let mixed = [
            Segment::Coded(&a.coded, 5, n - 5),
            Segment::Dense(&dense[1][..4 * row], Elem::F32),
            Segment::Coded(&b.coded, 4, n - 4),
        ];
        let all = [Segment::Dense(&dense[0][5 * row..], Elem::F32), Segment::Dense(&dense[1], Elem::F32)];
        for m in [1, 9] {
            let shape = (2 * n - 5, k);
            let got = product(&mut cpu, &x, m, &mixed, shape);
            assert_same(&format!("{kernels:?} parts of {m}"), &got, &product(&mut cpu, &x, m, &all, shape));
        }
        let mut experts = |weights: [Segment<'_>; 2]| {
            let mut out = vec![0u8; 9 * n * 4];
            let lists = [(weights[0], [0, 3, 8, 1], [8, 0, 1, 2]), (weights[1], [7, 2, 4, 5], [3, 7, 4, 6])];
            let lists: Vec<_> = lists
                .iter()
                .map(|(weight, x_rows, out_rows)| ExpertRows { weight: *weight, x_rows, out_rows })
                .collect();
            let x = Rows::new(&x, Elem::F32, 9, k).unwrap();
            let to = RowsMut::new(&mut out, Elem::F32, 9, n).unwrap();
            cpu.expert_linear(x, &lists, ActMode::F32, to).unwrap();
            out
        };
        let got = experts([Segment::Coded(&a.coded, 0, n), Segment::Coded(&b.coded, 0, n)]);
        let want = experts([Segment::Dense(&dense[0], Elem::F32), Segment::Dense(&dense[1], Elem::F32)]);
        assert_same(&format!("{kernels:?} experts"), &got, &want);
    }
}

/// By the definition of core's `ActQuant`, with sums in i64.
#[test]
fn integers_are_multiplied_exactly() {
    for kernels in all_kernels() {
        let mut cpu = cpu(kernels, 2);
        for (seed, (n, k)) in [(1, 5), (2, 64), (6, 77), (41, 1000), (5, 4160)].into_iter().enumerate() {
            let form =
                CodedForm { codes: Codes::I8, formula: Formula::Symmetric, scale: Elem::F32, group: k, k };
            let drawn = draw(form, n, 90 + seed as u64);
            let coded = drawn.coded.with_int8_inputs().unwrap();
            let mut x = Random::new(8).values(13 * k);
            x[..k].fill(0.0);
            x[k] = 1e9;
            let bias = Random::new(9).values(n);
            for m in [1, 2, 5, 13] {
                let mut out = vec![0xffu8; m * n * 4];
                let bytes = bytes_of(&x);
                let rows = Rows::new(&bytes[..m * k * 4], Elem::F32, m, k).unwrap();
                let to = RowsMut::new(&mut out, Elem::F32, m, n).unwrap();
                let segments = [Segment::Coded(&coded, 0, n)];
                let weights = Weights { segments: &segments, k };
                cpu.linear(rows, weights, Some(&bias), ActMode::F32, to).unwrap();
                let mut want = Vec::new();
                for row in x.chunks(k).take(m) {
                    let scale = row.iter().fold(0f32, |most, x| most.max(x.abs())) / 127.0;
                    let code = |x: &f32| {
                        if scale == 0.0 {
                            0
                        } else {
                            (x / scale).round_ties_even().clamp(-128.0, 127.0) as i64
                        }
                    };
                    for (j, bias) in bias.iter().enumerate() {
                        let sum: i64 =
                            row.iter().zip(&drawn.numbers[j * k..]).map(|(x, w)| code(x) * *w as i64).sum();
                        want.push(scale * drawn.scales[j] * sum as f32 + bias);
                    }
                }
                assert_same(&format!("{kernels:?} {m} x {n} x {k}"), &out, &bytes_of(&want));
            }
        }
    }
}
