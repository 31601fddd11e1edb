//! How far each output element of an op may be from the reference, from the op's inputs: the
//! tolerance table applied.

use std::collections::HashMap;
use std::f64::consts::SQRT_2;
use std::ops::Range;

use nvllm_core::weight::InputQuant;
use nvllm_core::{Activations, AttentionSpec, DType, KvFormat, KvLayer, Op, SlotId, WeightDecl, WeightId};

use crate::tolerance::{
    BF16, FUSED_KEY, FUSED_SCORE, STORED_SCORE, U, accumulation, exponential, probabilities, step,
};

/// Keys and values that the reference was given, by layer and slot: rows of `kv_heads * head_dim`.
pub(crate) type History = HashMap<(KvLayer, SlotId), [Vec<f32>; 2]>;

/// Where a row of the step belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowAt {
    pub slot: SlotId,
    pub kv_index: usize,
}

/// One application of an op, as the reference made it.
pub(crate) struct Applied<'a> {
    pub op: &'a Op,
    pub inputs: &'a [&'a [f32]],
    pub in_cols: &'a [usize],
    pub out: &'a [f32],
    /// The backend's output. An element that equals it bit for bit needs no bound, and where one
    /// takes long there is none.
    pub got: Option<&'a [f32]>,
    pub weights: &'a [Vec<f32>],
    pub quants: &'a [Vec<InputQuant>],
    pub decls: &'a [WeightDecl],
    pub rows: &'a [RowAt],
    pub history: &'a History,
    pub activations: Activations,
    pub kv_format: KvFormat,
    /// Whether the inputs were out of sight, inside a fused op, so that they may differ from the
    /// reference's.
    pub unseen: bool,
    /// For each input that a linear layer made inside a fused op, how far the backend's may be from
    /// it.
    pub slack: &'a [Option<&'a [f64]>],
}

impl Applied<'_> {
    /// The accumulation part of the bound for each element of the first output; empty: bit-equal.
    pub(crate) fn bounds(&self) -> Vec<f64> {
        match self.op {
            Op::Add => {
                let terms = self.inputs[0].iter().zip(self.inputs[1]).enumerate();
                let size = |(i, (a, b)): (usize, (&f32, &f32))| {
                    2.0 * U * (abs(*a) + abs(*b)) + self.slack(0, i) + self.slack(1, i)
                };
                terms.map(size).collect()
            }
            Op::RmsNorm { weight, .. } => {
                let c = accumulation(self.weights[weight.index()].len());
                self.out.iter().map(|&y| c * abs(y)).collect()
            }
            Op::Linear { weight, bias } => {
                let bias = bias.map(|b| self.weights[b.index()].as_slice());
                let rows = 0..self.decls[weight.index()].num_rows();
                let product = |x| self.products(*weight, x, rows.clone(), bias);
                self.inputs[0].chunks(self.in_cols[0]).flat_map(product).collect()
            }
            Op::ExpertLinear { weight } => self.expert_linear(*weight),
            Op::SiluMul => self.silu_mul(self.in_cols[0] / 2),
            Op::Rope(spec) => self.rope(spec.head_dim, f64::from(spec.attention_factor())),
            Op::PagedAttention { spec, kv } => self.attention(spec, *kv),
            Op::WeightedSum => self.weighted_sum(),
            // `top_k` is a selection and judged by itself; the rest are copies.
            _ => Vec::new(),
        }
    }

    /// Which of `range` of the output need a bound, counted from its beginning.
    fn needed(&self, range: Range<usize>) -> Vec<usize> {
        let (first, out) = (range.start, &self.out[range.clone()]);
        let differs = |c: &usize| self.got.is_none_or(|got| got[first + c].to_bits() != out[*c].to_bits());
        (0..out.len()).filter(differs).collect()
    }

    /// How far input `input` may be off at element `i`.
    fn slack(&self, input: usize, i: usize) -> f64 {
        self.slack[input].map_or(0.0, |slack| slack[i])
    }

    /// The exponential's error, and those of gate and up.
    fn silu_mul(&self, n: usize) -> Vec<f64> {
        let element = |(i, &y): (usize, &f32)| {
            let gate = i / n * 2 * n + i % n;
            let (z, up) = (f64::from(self.inputs[0][gate]), f64::from(self.inputs[0][gate + n]));
            let (z_off, up_off) = (self.slack(0, gate), self.slack(0, gate + n));
            let share = 1.0 / (1.0 + (-z).exp());
            // silu' here; it changes by no more than z_off / 2 within z_off.
            let slope = (share * (1.0 + z * (1.0 - share))).abs() + 0.5 * z_off;
            exponential(z) * abs(y) + slope * z_off * (up.abs() + up_off) + (z * share).abs() * up_off
        };
        self.out.iter().enumerate().map(element).collect()
    }

    fn expert_linear(&self, weight: WeightId) -> Vec<f64> {
        let (n, k) = (self.decls[weight.index()].shape[1], self.in_cols[0]);
        let ids = self.inputs[1];
        let times = ids.len() * k / self.inputs[0].len().max(1);
        let row = |(i, &id): (usize, &f32)| {
            let first = id as usize * n;
            self.products(weight, &self.inputs[0][i / times * k..][..k], first..first + n, None)
        };
        ids.iter().enumerate().flat_map(row).collect()
    }

    /// The accumulation part for the product of `x` with each of `rows` of a weight, whose parts
    /// may quantise it each in its own way.
    fn products(&self, weight: WeightId, x: &[f32], rows: Range<usize>, bias: Option<&[f32]>) -> Vec<f64> {
        let (w, k) = (&self.weights[weight.index()], x.len());
        let (mut bounds, mut first) = (Vec::with_capacity(rows.len()), 0);
        for quant in &self.quants[weight.index()] {
            let end = first + quant.num_rows;
            let (from, to) = (rows.start.max(first), rows.end.min(end));
            if from < to {
                let bias = bias.map(|bias| &bias[from - rows.start..to - rows.start]);
                let (x, w) = (quant.apply(x), &w[from * k..to * k]);
                let product = products(&x, w, k, bias);
                match self.activations {
                    Activations::F32 => bounds.extend(product),
                    Activations::Bf16 => {
                        let rounding = w.chunks(k).map(|w| rounded_weights(&x, w));
                        bounds.extend(product.into_iter().zip(rounding).map(|(a, b)| a + b));
                    }
                }
            }
            first = end;
        }
        bounds
    }

    fn weighted_sum(&self) -> Vec<f64> {
        let (x, weights, cols) = (self.inputs[0], self.inputs[1], self.in_cols[0]);
        let times = x.len() / self.out.len().max(1);
        (0..self.out.len())
            .map(|i| {
                let (row, c) = (i / cols, i % cols);
                let term = |j: usize| abs(x[(row * times + j) * cols + c]) * abs(weights[row * times + j]);
                accumulation(times) * (0..times).map(term).sum::<f64>()
            })
            .collect()
    }

    fn rope(&self, d: usize, factor: f64) -> Vec<f64> {
        let half = d / 2;
        let head = |head: &[f32]| {
            let size = |i: usize| 8.0 * U * factor * (abs(head[i % half]) + abs(head[half + i % half]));
            (0..d).map(size).collect::<Vec<_>>()
        };
        self.inputs[0].chunks(d).flat_map(head).collect()
    }

    fn attention(&self, spec: &AttentionSpec, kv: KvLayer) -> Vec<f64> {
        let (d, width) = (spec.head_dim, spec.num_heads * spec.head_dim);
        let mut bounds = vec![0.0; self.out.len()];
        for (row, at) in self.rows.iter().enumerate() {
            let [keys, values] = &self.history[&(kv, at.slot)];
            let first = spec.window.map_or(0, |w| (at.kv_index + 1).saturating_sub(w));
            for head in 0..spec.num_heads {
                let q = row * width + head * d;
                let cols = self.needed(q..q + d);
                if cols.is_empty() {
                    continue;
                }
                let kv_head = head / (spec.num_heads / spec.num_kv_heads);
                let part = |of: &[f32], j: usize| -> Vec<f32> {
                    of[(j * spec.num_kv_heads + kv_head) * d..][..d].to_vec()
                };
                let cached: Vec<_> =
                    (first..=at.kv_index).map(|j| (part(keys, j), part(values, j))).collect();
                let scale = f64::from(spec.scale);
                let of_head = self.one_head(&self.inputs[0][q..q + d], &cached, scale, &cols);
                cols.iter().zip(of_head).for_each(|(c, bound)| bounds[q + c] = bound);
            }
        }
        bounds
    }

    /// The four parts of the derivation in [`tolerance`](crate::tolerance), for these columns of
    /// one row of one head.
    fn one_head(&self, q: &[f32], cached: &[(Vec<f32>, Vec<f32>)], scale: f64, cols: &[usize]) -> Vec<f64> {
        let scored: Vec<_> = cached.iter().map(|(k, _)| self.score(q, k, scale)).collect();
        let max = scored.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
        let exp: Vec<_> = scored.iter().map(|s| (s.0 - max).exp()).collect();
        let sum: f64 = exp.iter().sum();
        let alike = numbered(&exp);
        let errors: Vec<_> = scored.iter().map(|(s, e)| e + exponential(s - max)).collect();
        let amplified = (2.0 * errors.iter().copied().fold(0.0, f64::max)).exp();
        let column = |&c: &usize| {
            let terms = || exp.iter().zip(cached).map(|(e, (_, v))| (e / sum, f64::from(v[c])));
            let out: f64 = terms().map(|(p, v)| p * v).sum();
            let size: f64 = terms().map(|(p, v)| p * v.abs()).sum();
            let spread: f64 = terms().zip(&errors).map(|((p, v), e)| p * e * (v - out).abs()).sum();
            let mut bound = amplified * spread + accumulation(cached.len()) * size;
            // The one probability of a single position is 1.
            if cached.len() > 1 && self.activations == Activations::Bf16 {
                let whole = probabilities(terms().map(|(p, v)| p * v.abs()), &alike);
                let centred = probabilities(terms().map(|(p, v)| p * (v - out).abs()), &alike);
                bound += whole.max(centred);
            }
            bound
        };
        cols.iter().map(column).collect()
    }

    /// What stored keys that are neighbours of the reference's may do to a score.
    fn stored_score(&self, q: &[f32], k: &[f32]) -> f64 {
        let drift = drift(self.activations, k.len());
        let (mut sum, mut variance, mut most) = (0.0, 0.0, 0.0_f64);
        for (i, &q) in q.iter().enumerate() {
            let step = neighbour(self.activations, self.kv_format, k, i);
            sum += f64::from(q) * f64::from(k[i]);
            variance += abs(q).powi(2) * step * (drift * pair(k, i)).min(step);
            most = most.max(abs(q) * step);
        }
        // As in `fused_key`.
        let scale = if self.kv_format == KvFormat::Int8 { SQRT_2 * drift * sum.abs() } else { 0.0 };
        STORED_SCORE * variance.sqrt() + most + scale
    }

    /// A score and its error.
    fn score(&self, q: &[f32], k: &[f32], scale: f64) -> (f64, f64) {
        let terms = || q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k));
        let (sum, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
        let mut error = accumulation(q.len()) * size;
        if self.unseen {
            // Norm and rope are inside the fused op.
            error += 16.0 * U * (q.len() as f64).sqrt() * size;
            if self.activations == Activations::Bf16 {
                let squares = (0..q.len()).map(|i| (pair(q, i) * pair(k, i)).powi(2));
                error += FUSED_SCORE * squares.sum::<f64>().sqrt();
            }
            error += self.stored_score(q, k);
        }
        (sum * scale, error * scale.abs())
    }
}

/// Numbers from 0, the same for equal values.
fn numbered(values: &[f64]) -> Vec<usize> {
    let mut known = HashMap::new();
    let number = |value: &f64| {
        let next = known.len();
        *known.entry(value.to_bits()).or_insert(next)
    };
    values.iter().map(number).collect()
}

fn abs(x: f32) -> f64 {
    f64::from(x.abs())
}

/// `accumulation(k) * (sum |x_i w_ji| + |b_j|)` for every row `j` of `w`.
fn products(x: &[f32], w: &[f32], k: usize, bias: Option<&[f32]>) -> Vec<f64> {
    let size = |(j, w): (usize, &[f32])| {
        let sum: f32 = x.iter().zip(w).map(|(x, w)| (x * w).abs()).sum();
        accumulation(k) * (f64::from(sum) + bias.map_or(0.0, |b| abs(b[j])))
    };
    w.chunks(k).enumerate().map(size).collect()
}

/// What the product of `x` and `w` changes by if the weights are rounded to bf16: exactly, as a
/// backend rounds all of a row or none.
fn rounded_weights(x: &[f32], w: &[f32]) -> f64 {
    let term = |(x, w): (&f32, &f32)| f64::from(*x) * (f64::from(DType::Bf16.round(*w)) - f64::from(*w));
    x.iter().zip(w).map(term).sum::<f64>().abs()
}

/// Judges a backend's choice of experts: `got` are its ids and weights, from its own `logits`.
///
/// Right is any choice in which every expert is distinct and in range, has the probability that the
/// logits give it, is within tolerance of the best expert not chosen before it, and (exact ties
/// aside) stands in descending order.
pub(crate) fn check_top_k(
    logits: &[f32],
    num_experts: usize,
    [k, renormalize]: [usize; 2],
    ids: &[f32],
    weights: &[f32],
) -> Result<(), (usize, String)> {
    for (row, x) in logits.chunks(num_experts).enumerate() {
        let (ids, weights) = (&ids[row * k..][..k], &weights[row * k..][..k]);
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exp: Vec<f64> = x.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).collect();
        let sum: f64 = exp.iter().sum();
        let mut left: Vec<usize> = (0..num_experts).collect();
        let error = |e: usize| exponential(f64::from(x[e] - max)) + accumulation(num_experts);
        for (j, &id) in ids.iter().enumerate() {
            let Some(at) = left.iter().position(|&e| e as f32 == id) else {
                return Err((
                    row * k + j,
                    format!("choice {j} is expert {id}, chosen before or out of range"),
                ));
            };
            // The first of equals: exact ties go to the lower id.
            let best = left.iter().copied().fold(left[0], |a, e| if x[e] > x[a] { e } else { a });
            let chosen = left.remove(at);
            let slack = (error(best) + error(chosen)) * exp[best];
            if exp[best] - exp[chosen] > slack || x[best] == x[chosen] && best < chosen {
                let text =
                    format!("choice {j} is expert {chosen} ({:e}); {best} has {:e}", x[chosen], x[best]);
                return Err((row * k + j, text));
            }
        }
        let total: f64 = ids.iter().map(|&e| exp[e as usize] / sum).sum();
        for (j, (&id, &w)) in ids.iter().zip(weights).enumerate() {
            let mut expected = exp[id as usize] / sum;
            if renormalize == 1 {
                expected /= total;
            }
            let allowed = 2.0 * error(id as usize) * expected;
            let off = (f64::from(w) - expected).abs();
            if off.is_nan() || off > allowed {
                let text = format!("weight {j} is {w:e}; {expected:e} +- {allowed:.1e} is right");
                return Err((row * k + j, text));
            }
        }
    }
    Ok(())
}

/// Length of the pair that rotation turns, of which element `i` of a head is one.
pub(crate) fn pair(head: &[f32], i: usize) -> f64 {
    abs(head[i]).hypot(abs(head[(i + head.len() / 2) % head.len()]))
}

/// What an element of a fused op's key may differ by before it is stored, for each unit of its
/// pair's length.
fn drift(activations: Activations, head_dim: usize) -> f64 {
    let rounding = if activations == Activations::Bf16 { FUSED_KEY } else { 0.0 };
    16.0 * U * (head_dim as f64).sqrt() + rounding
}

/// How far a neighbour of element `i` of a key's head is in the KV cache, where two elements that
/// differ in the last bit may become neighbours; 0 if they are stored as they are.
fn neighbour(activations: Activations, kv: KvFormat, head: &[f32], i: usize) -> f64 {
    match (activations, kv) {
        (Activations::F32, KvFormat::Bf16) => 2.0 * BF16 * pair(head, i),
        _ => step(kv, abs(head[i]), largest(head)),
    }
}

/// What the KV cache of a fused op may differ by, at element `i` of a key's head.
pub(crate) fn fused_key(activations: Activations, kv: KvFormat, head: &[f32], i: usize) -> f64 {
    let (drift, size) = (drift(activations, head.len()), abs(head[i]));
    // The scale follows the largest element, whose pair is at most sqrt(2) times as long.
    let scale = if kv == KvFormat::Int8 { SQRT_2 * drift * size } else { 0.0 };
    let stored = neighbour(activations, kv, head, i) + scale;
    drift * pair(head, i) + stored
}

/// The largest magnitude of a row.
fn largest(row: &[f32]) -> f64 {
    row.iter().map(|&x| abs(x)).fold(0.0, f64::max)
}
