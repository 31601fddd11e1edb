//! What rounding with regard to inputs promises: outputs nearer than round to nearest's.

mod support;

use bytes::Bytes;
use nvllm_core::sampling::philox4x32;
use nvllm_core::weight::Dequantized;
use nvllm_core::{CanonicalTensor, DType, WeightSource as _};
use nvllm_quant::make::{
    Format, GptqFactor, GptqOptions, Hessian, awq, awq_divided, awq_factors, gptq, quantize,
};
use support::One;

const FORMAT: Format = Format::Int4 { group_size: 32 };
const ROWS: usize = 24;
/// More than a block of columns, and no multiple of one.
const COLS: usize = 192;

/// The values of a tensor, dense or coded.
fn values(tensor: CanonicalTensor) -> Vec<f32> {
    if let Some(dtype) = tensor.format.plain() {
        return (0..tensor.num_rows() * tensor.num_cols()).map(|i| dtype.read(&tensor.codes, i)).collect();
    }
    let dense = Dequantized::new(One(tensor), DType::F32).tensor("w").unwrap();
    dense.codes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn normal(seed: u64, at: usize) -> f32 {
    let uniform = |of| philox4x32(seed, [at as u32, of, 0, 0])[0] as f32 / u32::MAX as f32;
    (0..12).map(uniform).sum::<f32>() - 6.0
}

fn weights(seed: u64) -> CanonicalTensor {
    let mut bytes = Vec::new();
    (0..ROWS * COLS).for_each(|at| DType::Bf16.write(0.02 * normal(seed, at), &mut bytes));
    CanonicalTensor::dense(DType::Bf16, [ROWS, COLS], Bytes::from(bytes))
}

/// Inputs of a few directions and some noise, with columns that stand out, as a model's have; one
/// column is never used.
fn inputs(seed: u64) -> Vec<f32> {
    let direction = |token: usize, col: usize| {
        (0..6).map(|d| normal(seed, token * 6 + d) * normal(seed + 1, d * COLS + col)).sum::<f32>()
    };
    let size = |col: usize| if col % 37 == 5 { 20.0 } else { 1.0 };
    let one = |token: usize, col: usize| {
        let x = direction(token, col) + 0.3 * normal(seed + 2, token * COLS + col);
        if col == 77 { 0.0 } else { size(col) * x }
    };
    (0..300).flat_map(|token| (0..COLS).map(move |col| (token, col))).map(|(t, c)| one(t, c)).collect()
}

/// The squared error of all outputs.
fn output_error(weights: &[f32], made: &[f32], inputs: &[f32]) -> f64 {
    let mut sum = 0.0;
    for x in inputs.chunks(COLS) {
        for (w, m) in weights.chunks(COLS).zip(made.chunks(COLS)) {
            let off: f64 = w.iter().zip(m).zip(x).map(|((w, m), x)| f64::from((w - m) * x)).sum();
            sum += off * off;
        }
    }
    sum
}

fn hessian(inputs: &[f32]) -> Hessian {
    let mut hessian = Hessian::new(COLS);
    inputs.chunks(100 * COLS).for_each(|some| hessian.add(some));
    hessian
}

#[test]
fn gptq_is_nearer_than_round_to_nearest() {
    for seed in [1, 100, 200] {
        let (w, x) = (weights(seed), inputs(seed + 10));
        let hessian = hessian(&x);
        let dense = values(w.clone());
        let nearest = output_error(&dense, &values(quantize("w", &w, FORMAT).unwrap()), &x);
        for act_order in [false, true] {
            let options = GptqOptions { act_order, ..GptqOptions::default() };
            let factor = GptqFactor::new("w", &hessian, options).unwrap();
            let made = gptq("w", &w, FORMAT, &factor).unwrap();
            made.check("w").unwrap();
            assert_eq!(made.format, FORMAT.canonical(DType::Bf16));
            let error = output_error(&dense, &values(made), &x);
            assert!(error < 0.7 * nearest, "seed {seed}, order {act_order}: {error} and {nearest}");
        }
    }
}

/// Inputs that have nothing to do with each other leave nothing to make up for.
#[test]
fn gptq_of_independent_inputs_is_round_to_nearest() {
    let w = weights(5);
    let mut x = vec![0.0; COLS * COLS];
    (0..COLS).for_each(|i| x[i * COLS + i] = 2.0);
    for act_order in [false, true] {
        let options = GptqOptions { act_order, ..GptqOptions::default() };
        let factor = GptqFactor::new("w", &hessian(&x), options).unwrap();
        let made = gptq("w", &w, FORMAT, &factor).unwrap();
        assert_eq!(values(made), values(quantize("w", &w, FORMAT).unwrap()), "{act_order}");
    }
}

#[test]
fn awq_is_nearer_than_round_to_nearest() {
    for seed in [1, 100, 200] {
        let (w, x) = (weights(seed), inputs(seed + 10));
        let factors = awq_factors(&[("w", &w)], FORMAT, &hessian(&x)).unwrap();
        let made = awq("w", &w, FORMAT, &factors, None).unwrap();
        made.check("w").unwrap();
        // What makes the inputs makes them smaller.
        let mut made = values(made);
        made.iter_mut().enumerate().for_each(|(at, x)| *x /= factors[at % COLS]);
        let dense = values(w.clone());
        let nearest = output_error(&dense, &values(quantize("w", &w, FORMAT).unwrap()), &x);
        let error = output_error(&dense, &made, &x);
        assert!(error < 0.9 * nearest, "seed {seed}: {error} and {nearest}");
    }
}

#[test]
fn factors_of_rows_and_of_vectors_divide() {
    let w = weights(3);
    let rows: Vec<f32> = (0..ROWS).map(|row| [0.5, 2.0, 4.0][row % 3]).collect();
    let made = values(awq("w", &w, FORMAT, &[1.0; COLS], Some(&rows)).unwrap());
    let plain = values(quantize("w", &w, FORMAT).unwrap());
    let row = |at: usize| rows[at / COLS];
    assert!(made.iter().enumerate().all(|(at, x)| *x == plain[at] / row(at)));

    let mut bytes = Vec::new();
    [1.0, -3.0, 8.0].iter().for_each(|&x| DType::F16.write(x, &mut bytes));
    let vector = CanonicalTensor::dense(DType::F16, [3], Bytes::from(bytes));
    let divided = awq_divided("norm", &vector, &[2.0, 4.0, 0.5]).unwrap();
    assert_eq!((0..3).map(|i| DType::F16.read(&divided.codes, i)).collect::<Vec<_>>(), [0.5, -0.75, 16.0]);
    assert!(awq_divided("norm", &vector, &[1.0; 2]).unwrap_err().to_string().contains("`norm`"));
}
