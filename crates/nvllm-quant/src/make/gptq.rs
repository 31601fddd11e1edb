//! GPTQ: each column's rounding error is made up for by the columns that are still to be rounded.
//!
//! Source: Frantar et al. 2022, "GPTQ" (arXiv 2210.17323).

use nvllm_core::{CanonicalTensor, CoreError, Result};

use super::{Format, Hessian, Rounded, parallel};

/// How it is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GptqOptions {
    /// What is added to the Hessian's diagonal, in its mean.
    pub damp: f32,
    /// Whether columns are rounded in the order of falling inputs. Scales are then those of the
    /// groups as they were, and columns stay where they are.
    pub act_order: bool,
}

impl Default for GptqOptions {
    fn default() -> Self {
        Self { damp: 0.01, act_order: false }
    }
}

/// Columns after which errors are passed on to all the rest.
const BLOCK: usize = 128;

/// What GPTQ needs of a layer's inputs: the same for all tensors that see them.
#[derive(Clone, Debug)]
pub struct GptqFactor {
    /// Columns as they are rounded.
    order: Vec<u32>,
    /// Upper Cholesky factor of the inverse of the damped Hessian, `[k, k]`, in that order.
    upper: Vec<f32>,
    /// Whether scales are those of the groups as they were.
    fixed_scales: bool,
}

impl GptqFactor {
    /// Errors, calling the layer `name`, if the Hessian is not positive definite: its inputs were
    /// not finite.
    pub fn new(name: &str, hessian: &Hessian, options: GptqOptions) -> Result<Self> {
        let mut order: Vec<u32> = (0..hessian.num_cols() as u32).collect();
        if options.act_order {
            let size = |&col: &u32| hessian.mean_square(col as usize);
            order.sort_by(|a, b| size(b).total_cmp(&size(a)));
        }
        let upper = hessian.inverse_factor(name, &order, options.damp)?;
        Ok(Self { order, upper, fixed_scales: options.act_order })
    }
}

/// The dense tensor `tensor` in `format`, by the inputs that it sees.
///
/// Errors, calling the tensor `name`, as [`quantize`](super::quantize) does, and if its inputs have
/// other columns.
pub fn gptq(
    name: &str,
    tensor: &CanonicalTensor,
    format: Format,
    factor: &GptqFactor,
) -> Result<CanonicalTensor> {
    let (cols, order) = (tensor.num_cols(), &factor.order);
    if order.len() != cols {
        let problem = format!("has {cols} columns, and its inputs {}", order.len());
        return Err(CoreError::BadTensor { name: name.into(), problem });
    }
    let mut rounded = Rounded::begin(name, tensor, format)?;
    let shape = rounded.shape();
    parallel::rows(&mut rounded.rows, 1, cols * cols, |_, row| {
        let row = &mut row[0];
        if factor.fixed_scales {
            row.set_scales(shape);
        }
        let mut weights: Vec<_> = order.iter().map(|&col| row.dense[col as usize]).collect();
        for start in (0..cols).step_by(BLOCK) {
            let end = (start + BLOCK).min(cols);
            let mut errors = [0.0; BLOCK];
            for col in start..end {
                let logical = order[col] as usize;
                if !factor.fixed_scales && logical.is_multiple_of(shape.width) {
                    row.set_scale(shape, logical / shape.width, &weights[col..(col + shape.width).min(cols)]);
                }
                let inverse = &factor.upper[col * cols..(col + 1) * cols];
                let value = row.round(shape, logical, weights[col]);
                let error = (weights[col] - value) / inverse[col];
                errors[col - start] = error;
                axpy(-error, &inverse[col..end], &mut weights[col..end]);
            }
            for (col, &error) in (start..end).zip(&errors) {
                axpy(-error, &factor.upper[col * cols + end..(col + 1) * cols], &mut weights[end..]);
            }
        }
    });
    Ok(rounded.finish())
}

/// `y += a * x`.
fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}
