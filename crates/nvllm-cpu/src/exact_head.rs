//! Logits of a head as greedy sampling needs them: the largest one and its token, bit for bit, from
//! a copy of the head in 8 bits.
//!
//! The copy, of half the bytes of bf16, gives every logit but for an error that is bounded. Rows
//! whose logit could be the largest within its bound, the candidates, are multiplied again as they
//! are, by the kernel that multiplies all rows otherwise; the other logits become -inf.
//! `docs/exact-head.md` has the proof; names are the same here:
//!
//! | | |
//! |---|---|
//! | `W_i`, `w_i` | row i of the head, and of the copy: codes times a scale, rounded to f32 |
//! | `l_i`, `a_i` | the logits that kernels make of them for a hidden state `h` |
//! | `r_i` | radius of row i: `\|W_i - w_i\| + gamma (\|W_i\| + \|w_i\|)`, rounded up |
//! | `b_i` | `\|h\| r_i + slack >= \|l_i - a_i\|` |
//!
//! A row i is a candidate if `a_i + b_i >= max_j (a_j - b_j)`. Where no bound holds (what is not
//! finite, or might overflow), and where candidates are many, all rows are multiplied as they are.

use bytes::Bytes;
use nvllm_core::ExactHeadCounts;

use crate::error::ensure;
use crate::rows::to_f32;
use crate::zeroed::zeroed;
use crate::{
    ActMode, Coded, CodedForm, Codes, Cpu, Elem, Formula, Pool, Result, Rows, RowsMut, Segment, Weights,
};

/// Most columns: a sum of so many products has a bound.
const MAX_COLS: usize = 1 << 22;
/// One candidate in so many rows is as many as it takes to multiply all rows instead.
const MOST_CANDIDATES: usize = 8;
/// What makes up for all roundings of a bound itself, several times over.
const ROUND_UP: f64 = 1.0 + 1.0 / (1 << 20) as f64;
/// 64 times the smallest normal f32, 2^-120: more than any underflow takes.
const UNDERFLOW: f64 = 64.0 * f32::MIN_POSITIVE as f64;

/// The copy of a head, and how far each of its rows is from the original.
#[derive(Debug)]
pub struct ExactHead {
    copy: Coded,
    /// `r_i`; infinite for a row that is not finite.
    radii: Vec<f32>,
    /// No row of head or copy has a larger norm.
    largest: f64,
}

/// `b_i = norm r_i + slack`, of one hidden state.
#[derive(Clone, Copy, Debug)]
struct Reach {
    norm: f32,
    slack: f32,
}

impl Reach {
    fn bound(self, radius: f32) -> f32 {
        self.norm * radius + self.slack
    }
}

fn form(k: usize) -> CodedForm {
    CodedForm { codes: Codes::I8, formula: Formula::Symmetric, scale: Elem::F32, group: k, k }
}

/// `gamma_k` of Higham, Accuracy and Stability of Numerical Algorithms, section 3.1, for f32: the
/// largest relative error of a product after `k` roundings.
fn gamma(k: usize) -> f64 {
    let roundings = k as f64 * f64::from(f32::EPSILON) / 2.0;
    roundings / (1.0 - roundings)
}

/// The smallest f32 that is no less.
fn up(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest) < x { nearest.next_up() } else { nearest }
}

fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

/// `r_i` of a row and its copy.
fn radius(row: &[f32], codes: &[u8], scale: f32) -> f32 {
    // As kernels round it.
    let copy = || codes.iter().map(|&code| f64::from(scale * f32::from(code as i8)));
    let own = || row.iter().copied().map(f64::from);
    let apart = norm(own().zip(copy()).map(|(a, b)| a - b));
    let radius = up((apart + gamma(row.len()) * (norm(own()) + norm(copy()))) * ROUND_UP);
    if radius.is_finite() { radius } else { f32::INFINITY }
}

impl ExactHead {
    /// Copies the head `[n, k]` of element type `elem` that lies at `weight`.
    ///
    /// # Errors
    /// `weight` is not whole rows of `k`, `k` is 0 or too large, or there is no memory.
    pub fn new(pool: &Pool, weight: &[u8], elem: Elem, k: usize) -> nvllm_core::Result<Self> {
        let row_bytes = k * elem.size();
        let wrong = |problem: String| nvllm_core::CoreError::BadLimits { field: "exact_head", problem };
        if !(1..=MAX_COLS).contains(&k) || !weight.len().is_multiple_of(row_bytes) {
            return Err(wrong(format!("is for heads of whole rows of up to {MAX_COLS} columns")));
        }
        let (num_rows, form) = (weight.len() / row_bytes, form(k));
        let row = |row: usize| to_f32(&weight[row * row_bytes..][..row_bytes], elem);
        let (mut scales, mut radii) = (vec![0.0_f32; num_rows], vec![0.0_f32; num_rows]);
        pool.for_rows(bytemuck::cast_slice_mut(&mut scales), size_of::<f32>(), |i, out| {
            let largest = row(i).into_iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            out.copy_from_slice(&(largest / 127.0).to_le_bytes());
        });
        let mut codes = zeroed(num_rows * form.row_bytes(), "the copy of the head")?;
        pool.for_rows(&mut codes, form.row_bytes(), |i, out| {
            // What is no code, of a row of zeros or of one that is not finite, is some code.
            let code = |x: f32| (x / scales[i]).round_ties_even() as i8;
            out.iter_mut().zip(row(i)).for_each(|(out, x)| *out = code(x).cast_unsigned());
        });
        pool.for_rows(bytemuck::cast_slice_mut(&mut radii), size_of::<f32>(), |i, out| {
            let codes = &codes[i * form.row_bytes()..][..k];
            out.copy_from_slice(&radius(&row(i), codes, scales[i]).to_le_bytes());
        });
        // A radius is no less than gamma times the norms that are in it.
        let largest = f64::from(radii.iter().copied().fold(0.0, f32::max)) / gamma(k);
        let scales = Bytes::copy_from_slice(bytemuck::cast_slice(&scales));
        let copy = Coded::new(form, num_rows, [codes.into(), scales, Bytes::new()]);
        Ok(Self { copy: copy.map_err(|e| wrong(e.to_string()))?, radii, largest })
    }

    /// Bytes that the copy of a head `[n, k]` takes.
    pub fn bytes_for(n: usize, k: usize) -> usize {
        n * (form(k).row_bytes() + 2 * size_of::<f32>())
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.copy.bytes() + size_of_val(&self.radii[..])
    }

    /// The bounds of a hidden state's logits; none if there are no such.
    fn reach(&self, h: &[f32]) -> Option<Reach> {
        /// No sum of products that is less than this, in absolute terms, overflows.
        const FAR_FROM_OVERFLOW: f64 = f32::MAX as f64 / 4.0;
        let norm = norm(h.iter().copied().map(f64::from)) * ROUND_UP;
        let slack = UNDERFLOW * h.len() as f64 * (1.0 + norm + self.largest);
        let reach = Reach { norm: up(norm), slack: up(slack) };
        // False for what is not a number.
        let holds = norm * self.largest <= FAR_FROM_OVERFLOW && norm <= FAR_FROM_OVERFLOW;
        holds.then_some(reach)
    }

    /// The candidates, ascending; none if there are more than `most`.
    fn candidates(&self, approximate: &[f32], reach: Reach, most: usize) -> Option<Vec<usize>> {
        const LANES: usize = 16;
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let blocks = || approximate.chunks(LANES).zip(self.radii.chunks(LANES));
        for (a, r) in blocks() {
            for ((lane, a), r) in lanes.iter_mut().zip(a).zip(r) {
                let least = a - reach.bound(*r);
                *lane = if least > *lane { least } else { *lane };
            }
        }
        let least = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let mut found = Vec::new();
        for (block, (a, r)) in blocks().enumerate() {
            let may_be = |(a, r): (&f32, &f32)| a + reach.bound(*r) >= least;
            if a.iter().zip(r).fold(false, |any, pair| any | may_be(pair)) {
                found.extend((0..a.len()).filter(|&i| may_be((&a[i], &r[i]))).map(|i| block * LANES + i));
            }
            if found.len() > most {
                return None;
            }
        }
        Some(found)
    }
}

impl Cpu {
    /// The logits `out [n]` of the hidden state `x [1, k]` by the dense head `weight`, of which
    /// `head` is a copy: as [`linear`](Self::linear) makes them, but that those that cannot be the
    /// largest may be -inf. The largest ones, ties too, are there in all their bits.
    ///
    /// One row, since more are faster through the head itself: kernels of bf16 read it once for
    /// all of them, and those of codes make f32 of it first.
    ///
    /// # Errors
    /// Extents that do not fit together.
    pub fn exact_head(
        &mut self,
        x: Rows<'_>,
        (weight, elem): (&[u8], Elem),
        head: &ExactHead,
        mode: ActMode,
        out: &mut [f32],
    ) -> Result<ExactHeadCounts> {
        let (n, k) = (head.radii.len(), x.cols());
        let whole = Segment::Dense(weight, elem);
        ensure!(
            x.num_rows() == 1 && head.copy.cols() == k && whole.num_rows(k) == Some(n) && out.len() == n,
            "exact_head",
            "a head of {n} x {} for {} rows of {k}",
            head.copy.cols(),
            x.num_rows()
        );
        let mut multiply = |segments: &[Segment<'_>], out: &mut [f32]| {
            let cols = out.len();
            let to = RowsMut::new(bytemuck::cast_slice_mut(out), Elem::F32, 1, cols)?;
            self.linear(x, Weights { segments, k }, None, mode, to)
        };
        let reach = head.reach(&x.row_as_f32(0));
        if reach.is_some() {
            multiply(&[Segment::Coded(&head.copy, 0, n)], out)?;
        }
        let candidates = reach.and_then(|reach| head.candidates(out, reach, n / MOST_CANDIDATES));
        let Some(candidates) = candidates else {
            multiply(&[whole], out)?;
            return Ok(ExactHeadCounts { dense_rows: 1, ..ExactHeadCounts::default() });
        };
        let row_bytes = k * elem.size();
        let segment = |&i: &usize| Segment::Dense(&weight[i * row_bytes..][..row_bytes], elem);
        let mut exact = vec![0.0_f32; candidates.len()];
        multiply(&candidates.iter().map(segment).collect::<Vec<_>>(), &mut exact)?;
        out.fill(f32::NEG_INFINITY);
        candidates.iter().zip(exact).for_each(|(&i, exact)| out[i] = exact);
        Ok(ExactHeadCounts { rows: 1, candidates: candidates.len() as u64, dense_rows: 0 })
    }
}

#[cfg(test)]
mod tests;
