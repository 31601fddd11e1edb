//! What calibration inputs say of a linear layer: the sum of their outer products.

use nvllm_core::{CoreError, Result};

use super::parallel;

/// `H = sum of x x^T` over inputs `x` of `k` columns: half the Hessian of a layer's squared output
/// error in each of its rows. The error of rows `w + d` is `d H d^T`.
#[derive(Clone, Debug)]
pub struct Hessian {
    k: usize,
    /// `[k, k]`; its lower triangle counts.
    sums: Vec<f32>,
    num_inputs: usize,
}

impl Hessian {
    /// Of layers with `k` columns, and no inputs yet.
    pub fn new(k: usize) -> Self {
        Self { k, sums: vec![0.0; k * k], num_inputs: 0 }
    }

    /// Columns.
    pub const fn num_cols(&self) -> usize {
        self.k
    }

    /// Adds inputs, one after the other, each of `k` columns.
    pub fn add(&mut self, inputs: &[f32]) {
        let (k, num) = (self.k, inputs.len() / self.k.max(1));
        // Columns beside each other: an element is the product of two of them.
        let mut columns = vec![0.0; k * num];
        for (row, input) in inputs.chunks_exact(k).enumerate() {
            input.iter().enumerate().for_each(|(col, &x)| columns[col * num + row] = x);
        }
        let column = |at: usize| &columns[at * num..(at + 1) * num];
        parallel::rows(&mut self.sums, k, k * num, |at, sums| {
            for (other, sum) in sums[..=at].iter_mut().enumerate() {
                *sum += dot(column(at), column(other));
            }
        });
        self.num_inputs += num;
    }

    /// The mean of the squares of a column's inputs.
    pub fn mean_square(&self, col: usize) -> f32 {
        self.at(col, col) / self.num_inputs.max(1) as f32
    }

    fn at(&self, row: usize, col: usize) -> f32 {
        self.sums[row.max(col) * self.k + row.min(col)]
    }

    /// The squared output error over all inputs of rows that are off by `error`, `[n, k]`.
    pub fn squared_error(&self, error: &[f32]) -> f64 {
        let row = |error: &[f32]| {
            let products = |row: usize| {
                let below = dot(&self.sums[row * self.k..][..row], &error[..row]);
                f64::from(error[row]) * (2.0 * f64::from(below) + f64::from(self.at(row, row) * error[row]))
            };
            (0..self.k).map(products).sum::<f64>()
        };
        error.chunks_exact(self.k).map(row).sum()
    }

    /// The upper Cholesky factor `U` of the inverse of `H + damp * mean(diagonal) * 1`, with rows
    /// and columns in `order`: `U^T U` is that inverse. Columns whose inputs were all 0 count as if
    /// they had the mean.
    ///
    /// Errors, calling the layer `name`, if the sum is not positive definite: its inputs were not
    /// finite, or far out of the range of f32.
    pub(super) fn inverse_factor(&self, name: &str, order: &[u32], damp: f32) -> Result<Vec<f32>> {
        let k = self.k;
        let mean = (0..k).map(|i| f64::from(self.at(i, i))).sum::<f64>() / k.max(1) as f64;
        let mean = if mean > 0.0 { mean } else { 1.0 };
        // Backwards: the lower factor of the reversed matrix is the upper one of the matrix itself,
        // whose inverse is the factor of the inverse.
        let logical = |at: usize| order[k - 1 - at] as usize;
        let mut lower = vec![0.0_f64; k * k];
        for row in 0..k {
            for col in 0..=row {
                let (i, j) = (logical(row), logical(col));
                let mut x = f64::from(self.at(i, j));
                if i == j {
                    x = if x == 0.0 { mean } else { x } + f64::from(damp) * mean;
                }
                lower[row * k + col] = x;
            }
        }
        if !cholesky(&mut lower, k) {
            let problem = "cannot be calibrated: its inputs have no positive definite covariance".into();
            return Err(CoreError::BadTensor { name: name.into(), problem });
        }
        let inverse = inverse_of_lower(&lower, k);
        let mut upper = vec![0.0; k * k];
        for row in 0..k {
            for col in 0..=row {
                upper[(k - 1 - row) * k + (k - 1 - col)] = inverse[row * k + col] as f32;
            }
        }
        Ok(upper)
    }
}

/// `L` with `L L^T = A` in the place of `A`'s lower triangle. False if there is none.
fn cholesky(a: &mut [f64], k: usize) -> bool {
    for row in 0..k {
        let (done, rest) = a.split_at_mut(row * k);
        let this = &mut rest[..k];
        for col in 0..row {
            let other = &done[col * k..][..=col];
            this[col] = (this[col] - dot64(&this[..col], &other[..col])) / other[col];
        }
        let square = this[row] - dot64(&this[..row], &this[..row]);
        if !square.is_finite() || square <= 0.0 {
            return false;
        }
        this[row] = square.sqrt();
    }
    true
}

/// The inverse of a lower triangle, which is one too.
fn inverse_of_lower(lower: &[f64], k: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; k * k];
    for row in 0..k {
        let (done, rest) = inverse.split_at_mut(row * k);
        let (this, diagonal) = (&mut rest[..=row], lower[row * k + row]);
        for col in 0..row {
            let factor = -lower[row * k + col] / diagonal;
            this.iter_mut().zip(&done[col * k..][..=col]).for_each(|(x, y)| *x += factor * y);
        }
        this[row] = 1.0 / diagonal;
    }
    inverse
}

/// Sums in so many parts, side by side.
const PARTS: usize = 16;

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.as_chunks::<PARTS>(), b.as_chunks::<PARTS>());
    let mut sums = [0.0; PARTS];
    for (a, b) in a.0.iter().zip(b.0) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let rest = a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f32>();
    sums.iter().sum::<f32>() + rest
}

fn dot64(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.as_chunks::<PARTS>(), b.as_chunks::<PARTS>());
    let mut sums = [0.0; PARTS];
    for (a, b) in a.0.iter().zip(b.0) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let rest = a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f64>();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs that are no multiples of each other.
    fn inputs(k: usize, num: usize) -> Vec<f32> {
        (0..k * num).map(|i| ((i * i * 7 + i * 13) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn the_error_of_a_layer_is_that_of_its_outputs() {
        let (k, num) = (37, 50);
        let x = inputs(k, num);
        let mut hessian = Hessian::new(k);
        hessian.add(&x[..20 * k]);
        hessian.add(&x[20 * k..]);
        let error: Vec<f32> = (0..2 * k).map(|i| (i % 5) as f32 - 2.0).collect();
        let outputs = x.chunks(k).flat_map(|x| error.chunks(k).map(|row| dot(row, x)));
        let expected: f64 = outputs.map(|y| f64::from(y).powi(2)).sum();
        let got = hessian.squared_error(&error);
        assert!((got / expected - 1.0).abs() < 1e-4, "{got} {expected}");
    }

    #[test]
    fn the_factor_is_that_of_the_damped_inverse() {
        let k = 21;
        let mut hessian = Hessian::new(k);
        hessian.add(&inputs(k, 64));
        let order: Vec<u32> = (0..k as u32).map(|i| (i * 5) % k as u32).collect();
        let (damp, upper) = (0.01, hessian.inverse_factor("w", &order, 0.01).unwrap());
        let mean = (0..k).map(|i| hessian.at(i, i)).sum::<f32>() / k as f32;
        // (U^T U) (H + damp) is 1.
        let inverse = |i: usize, j: usize| (0..k).map(|l| upper[l * k + i] * upper[l * k + j]).sum::<f32>();
        for i in 0..k {
            assert!((0..i).all(|j| upper[i * k + j] == 0.0), "not upper in row {i}");
            for j in 0..k {
                let damped = |l: usize| {
                    hessian.at(order[l] as usize, order[j] as usize) + if l == j { damp * mean } else { 0.0 }
                };
                let product: f32 = (0..k).map(|l| inverse(i, l) * damped(l)).sum();
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-3, "{i} {j}: {product}");
            }
        }
    }

    #[test]
    fn inputs_that_are_not_finite_are_refused_by_name() {
        let mut hessian = Hessian::new(4);
        hessian.add(&[1.0, f32::NAN, 0.0, 2.0]);
        let message = hessian.inverse_factor("l.weight", &[0, 1, 2, 3], 0.01).unwrap_err().to_string();
        assert!(message.contains("`l.weight`"), "{message}");
        // Nothing at all is no fault.
        assert!(Hessian::new(4).inverse_factor("w", &[0, 1, 2, 3], 0.01).is_ok());
    }
}
