//! AWQ: columns whose inputs are large are made larger before they are rounded, and what makes
//! their inputs is made smaller by as much.
//!
//! Source: Lin et al. 2023, "AWQ" (arXiv 2306.00978). The magnitude of a column's inputs is their
//! root mean square here, which the Hessian has, where the paper takes the mean.

use bytes::Bytes;
use nvllm_core::{CanonicalTensor, CoreError, Result};

use super::rows::dense_row;
use super::rows::{checked, not_finite};
use super::{Format, Hessian, Rounded, parallel};

/// Exponents of the magnitudes that are tried, in steps from 0 to 1; 0 is round to nearest.
const STEPS: u32 = 10;

/// The factors of columns under which the layers `tensors`, which see the same inputs, come nearest
/// to their outputs: 1 for all if none does better than round to nearest.
///
/// Errors as [`gptq`](super::gptq()).
pub fn awq_factors(
    tensors: &[(&str, &CanonicalTensor)],
    format: Format,
    hessian: &Hessian,
) -> Result<Vec<f32>> {
    let cols = hessian.num_cols();
    let mut best = (f64::INFINITY, vec![1.0; cols]);
    for step in 0..=STEPS {
        let factors = factors(hessian, step as f32 / STEPS as f32);
        let mut error = 0.0;
        for (name, tensor) in tensors {
            error += squared_error(name, tensor, format, &factors, hessian)?;
        }
        if error < best.0 {
            best = (error, factors);
        }
    }
    Ok(best.1)
}

/// Magnitudes to the power of `exponent`, around 1.
fn factors(hessian: &Hessian, exponent: f32) -> Vec<f32> {
    // Columns without inputs are as good as any.
    let power = |col| hessian.mean_square(col).sqrt().max(1e-4).powf(exponent);
    let powers: Vec<f32> = (0..hessian.num_cols()).map(power).collect();
    let least = powers.iter().copied().fold(f32::INFINITY, f32::min);
    let most = powers.iter().copied().fold(0.0, f32::max);
    let middle = (least * most).sqrt();
    powers.into_iter().map(|power| power / middle).collect()
}

/// The squared output error of a layer under these factors.
fn squared_error(
    name: &str,
    tensor: &CanonicalTensor,
    format: Format,
    factors: &[f32],
    hessian: &Hessian,
) -> Result<f64> {
    let mut rounded = scaled(name, tensor, format, factors, None)?;
    let shape = rounded.shape();
    // The error takes the place of the values.
    let mut errors = vec![0.0; rounded.rows.len()];
    let mut rows: Vec<_> = rounded.rows.iter_mut().zip(&mut errors).collect();
    parallel::rows(&mut rows, 1, factors.len() * factors.len(), |_, row| {
        let (row, error) = &mut row[0];
        row.set_scales(shape);
        for (col, factor) in factors.iter().enumerate() {
            let x = row.dense[col];
            row.dense[col] = (row.round(shape, col, x) - x) / factor;
        }
        **error = hessian.squared_error(&row.dense);
    });
    Ok(errors.iter().sum())
}

/// The dense tensor `tensor` in `format`, its columns multiplied by `columns` and its rows divided
/// by `rows`.
///
/// Errors, calling the tensor `name`, as [`quantize`](super::quantize) does, and if there are not
/// as many factors.
pub fn awq(
    name: &str,
    tensor: &CanonicalTensor,
    format: Format,
    columns: &[f32],
    rows: Option<&[f32]>,
) -> Result<CanonicalTensor> {
    let mut rounded = scaled(name, tensor, format, columns, rows)?;
    let shape = rounded.shape();
    parallel::rows(&mut rounded.rows, 1, columns.len(), |_, row| {
        let row = &mut row[0];
        row.set_scales(shape);
        for col in 0..row.dense.len() {
            let x = row.dense[col];
            row.round(shape, col, x);
        }
    });
    Ok(rounded.finish())
}

/// The values before they are rounded.
fn scaled(
    name: &str,
    tensor: &CanonicalTensor,
    format: Format,
    columns: &[f32],
    rows: Option<&[f32]>,
) -> Result<Rounded> {
    let mut rounded = Rounded::begin(name, tensor, format)?;
    let (num_rows, num_cols) = (rounded.rows.len(), tensor.num_cols());
    if columns.len() != num_cols || rows.is_some_and(|rows| rows.len() != num_rows) {
        let problem =
            format!("has {num_rows} rows and {num_cols} columns, which are not those of its factors");
        return Err(CoreError::BadTensor { name: name.into(), problem });
    }
    for (at, row) in rounded.rows.iter_mut().enumerate() {
        let divisor = rows.map_or(1.0, |rows| rows[at]);
        row.dense.iter_mut().zip(columns).for_each(|(x, factor)| *x = *x * factor / divisor);
    }
    Ok(rounded)
}

/// A dense vector (the weight of a norm, a bias) with its elements divided by `factors`.
///
/// Errors, calling it `name`, if it is coded or not finite, or not of as many elements.
pub fn awq_divided(name: &str, vector: &CanonicalTensor, factors: &[f32]) -> Result<CanonicalTensor> {
    let dtype = checked(name, vector)?;
    let mut values = vec![0.0; vector.codes.len() / dtype.size()];
    dense_row(dtype, &vector.codes, &mut values);
    if values.len() != factors.len() {
        let problem = format!("has {} elements, and its factors are {}", values.len(), factors.len());
        return Err(CoreError::BadTensor { name: name.into(), problem });
    }
    let mut bytes = Vec::with_capacity(vector.codes.len());
    for (x, factor) in values.iter().zip(factors) {
        let x = x / factor;
        if !x.is_finite() {
            return Err(not_finite(name, 0));
        }
        dtype.write(x, &mut bytes);
    }
    Ok(CanonicalTensor::dense(dtype, vector.shape.clone(), Bytes::from(bytes)))
}
