//! What round to nearest promises of every format.

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use half::{bf16, f16};
use nvllm_core::sampling::philox4x32;
use nvllm_core::weight::table::e4m3_to_f32;
use nvllm_core::weight::{Dequantized, ScaleType, Table};
use nvllm_core::{CanonicalTensor, CoreError, DType, WeightSource as _};
use nvllm_quant::make::{Format, Quantized, quantize};
use proptest::prelude::*;
use support::One;

const FORMATS: [Format; 7] = [
    Format::Int8,
    Format::Int8Weights,
    Format::Int4 { group_size: 32 },
    Format::Int4 { group_size: 64 },
    Format::Int4 { group_size: 128 },
    Format::Fp8,
    Format::Nf4,
];

fn dense(dtype: DType, cols: usize, values: &[f32]) -> CanonicalTensor {
    let mut bytes = Vec::new();
    values.iter().for_each(|&x| dtype.write(x, &mut bytes));
    CanonicalTensor::dense(dtype, [values.len() / cols, cols], Bytes::from(bytes))
}

/// Every element's value.
fn values(tensor: CanonicalTensor) -> Vec<f32> {
    let dense = Dequantized::new(One(tensor), DType::F32).tensor("w").unwrap();
    dense.codes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// What `values` become.
fn rounded(dtype: DType, cols: usize, x: &[f32], format: Format) -> Vec<f32> {
    let tensor = quantize("w", &dense(dtype, cols, x), format).unwrap();
    tensor.check("w").unwrap();
    assert_eq!(tensor.format, format.canonical(dtype));
    values(tensor)
}

/// Values in the manner of weights, with some that stand out, some blocks of nothing, and rows of
/// any size.
fn draw(dtype: DType, rows: usize, cols: usize, seed: u64) -> Vec<f32> {
    let uniform =
        |at: usize, of: u32| f64::from(philox4x32(seed, [at as u32, of, 0, 0])[0]) / f64::from(u32::MAX);
    let one = |at: usize| {
        let size = 2_f64.powi((uniform(at / cols, 1) * 12.0) as i32 - 8);
        let sum = (2..14).map(|of| uniform(at, of)).sum::<f64>() - 6.0;
        let far = if uniform(at, 15) > 0.99 { 8.0 } else { 1.0 };
        let nothing = uniform(at / 32, 16) < 0.1;
        if nothing { 0.0 } else { dtype.round((size * sum * far) as f32) }
    };
    (0..rows * cols).map(one).collect()
}

/// Half the distance between the neighbours of `x` among the values of a format, in scales.
fn half_step(format: Format, x: f32) -> f32 {
    let around = |values: &[f32]| {
        let above = values.iter().position(|&v| v >= x).unwrap_or(values.len() - 1).max(1);
        (values[above] - values[above - 1]) / 2.0
    };
    match format {
        Format::Int8 | Format::Int8Weights | Format::Int4 { .. } => 0.5,
        Format::Nf4 => around(Table::Nf4.values()),
        Format::Fp8 => {
            let mut all: Vec<_> = (0..=255).map(e4m3_to_f32).filter(|x| x.is_finite()).collect();
            all.sort_by(f32::total_cmp);
            all.dedup();
            around(&all)
        }
    }
}

/// The scales of a tensor, in order.
fn scales(tensor: &CanonicalTensor) -> Vec<f32> {
    let kind = tensor.format.scales.unwrap().kind;
    let one = |bytes: &[u8]| match kind {
        ScaleType::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
        ScaleType::Bf16 => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
        _ => f32::from_le_bytes(bytes.try_into().unwrap()),
    };
    tensor.scales.chunks(kind.bits() / 8).map(one).collect()
}

fn width(format: Format, cols: usize) -> usize {
    match format {
        Format::Int4 { group_size } => group_size,
        Format::Nf4 => 64,
        _ => cols,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_element_is_farther_off_than_half_a_step(
        seed in any::<u64>(), rows in 1_usize..5, cols in 1_usize..300, dtype in 0_usize..3, at in 0_usize..7,
    ) {
        let (dtype, format) = ([DType::F32, DType::F16, DType::Bf16][dtype], FORMATS[at]);
        let x = draw(dtype, rows, cols, seed);
        let tensor = quantize("w", &dense(dtype, cols, &x), format).unwrap();
        let (mut scales, y) = (scales(&tensor).into_iter(), values(tensor));
        let width = width(format, cols);
        for (x, y) in x.chunks(cols).zip(y.chunks(cols)) {
            for (x, y) in x.chunks(width).zip(y.chunks(width)) {
                let scale = scales.next().unwrap();
                prop_assert_eq!(scale == 0.0, x.iter().all(|&x| x == 0.0));
                for (x, y) in x.iter().zip(y) {
                    let allowed = if scale == 0.0 { 0.0 } else { half_step(format, x / scale) * scale };
                    // The distance is a difference of rounded products.
                    prop_assert!((x - y).abs() <= allowed + 1e-6 * x.abs(), "{x} became {y}: {allowed} allowed");
                }
            }
        }
    }

    #[test]
    fn what_is_representable_stays(
        seed in any::<u64>(), rows in 1_usize..4, cols in 1_usize..300, at in 0_usize..7,
    ) {
        let format = FORMATS[at];
        let once = rounded(DType::F32, cols, &draw(DType::Bf16, rows, cols, seed), format);
        prop_assert_eq!(&rounded(DType::F32, cols, &once, format), &once);
    }

    #[test]
    fn rows_are_what_they_are_in_the_whole(seed in any::<u64>(), at in 0_usize..7) {
        let tensor = dense(DType::Bf16, 96, &draw(DType::Bf16, 6, 96, seed));
        let source = Quantized::new(Box::new(One(tensor)), [("w".into(), FORMATS[at])].into()).unwrap();
        let (whole, part) = (source.tensor("w").unwrap(), source.rows("w", 2..5).unwrap());
        prop_assert_eq!(source.info("w").unwrap(), whole.info());
        let cut = whole.slice_rows("w", 2..5).unwrap();
        prop_assert_eq!((cut.codes, cut.scales), (part.codes, part.scales));
    }
}

/// So large that threads share it.
#[test]
fn rows_that_threads_share_are_those_of_one() {
    let (rows, cols) = (259, 1000);
    let x = draw(DType::Bf16, rows, cols, 1);
    for format in FORMATS {
        let whole = quantize("w", &dense(DType::Bf16, cols, &x), format).unwrap();
        let last = quantize("w", &dense(DType::Bf16, cols, &x[(rows - 2) * cols..]), format).unwrap();
        let cut = whole.slice_rows("w", rows - 2..rows).unwrap();
        assert_eq!((cut.codes, cut.scales), (last.codes, last.scales), "{format:?}");
    }
}

#[test]
fn nothing_stays_nothing() {
    for (format, dtype) in FORMATS.into_iter().zip([DType::F32, DType::F16, DType::Bf16].into_iter().cycle())
    {
        let x = [[0.0; 64], [-0.0; 64]].concat();
        assert!(rounded(dtype, 64, &x, format).iter().all(|&x| x == 0.0), "{format:?}");
        // Smaller than any step.
        let tiny = rounded(DType::F32, 2, &[f32::from_bits(1), 0.0], format);
        assert!(tiny.iter().all(|x| x.abs() <= f32::from_bits(1)), "{format:?}: {tiny:?}");
    }
}

#[test]
fn what_cannot_be_quantised_is_refused_by_name() {
    let message = |tensor: &CanonicalTensor, format| {
        let error = quantize("model.w", tensor, format).unwrap_err();
        assert!(matches!(&error, CoreError::BadTensor { name, .. } if name == "model.w"));
        error.to_string()
    };
    for format in FORMATS {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![0.5; 6 * 32];
            x[5 * 32 - 1] = bad;
            let message = message(&dense(DType::Bf16, 32, &x), format);
            assert!(message.contains("row 4"), "{message}");
        }
        let coded = quantize("w", &dense(DType::F32, 32, &[1.0; 32]), format).unwrap();
        assert!(message(&coded, format).contains("not coded again"));
        let formats = BTreeMap::from([("w".to_owned(), format)]);
        let refused = Quantized::new(Box::new(One(coded)), formats).err().unwrap().to_string();
        assert!(refused.contains("`w`") && refused.contains("quantised already"), "{refused}");
    }
}
