//! One function an op, each the textbook formula over rows. Sums run in ascending order in f32.

use std::ops::Range;

use super::kv::ReferenceKv;
use crate::host::Batch;
use crate::weight::InputQuant;
use crate::{AttentionSpec, KvLayer, Op, Result, RopeSpec, Weight, WeightDecl, WeightId};

/// A weight as its formula has it: every element's value, and what happens to the input of its
/// rows.
pub(super) struct Decoded {
    values: Vec<f32>,
    inputs: Vec<InputQuant>,
}

impl Decoded {
    pub(super) fn of(weight: &Weight) -> Result<Self> {
        Ok(Self { values: weight.to_f32()?, inputs: weight.inputs() })
    }

    /// `dot(quantised x, row)` for each of `rows`, of `x.len()` columns. Each part of the weight
    /// quantises `x` in its own way.
    fn products(&self, x: &[f32], rows: Range<usize>) -> Vec<f32> {
        let (mut out, mut first) = (Vec::with_capacity(rows.len()), 0);
        for input in &self.inputs {
            let end = first + input.num_rows;
            let (from, to) = (rows.start.max(first), rows.end.min(end));
            if from < to {
                let x = input.apply(x);
                out.extend(self.values[from * x.len()..to * x.len()].chunks(x.len()).map(|w| dot(&x, w)));
            }
            first = end;
        }
        out
    }
}

/// What an op sees beside its inputs.
pub(super) struct Context<'a> {
    pub batch: &'a Batch,
    pub weights: &'a [Decoded],
    pub decls: &'a [WeightDecl],
    /// Columns of each input.
    pub in_cols: Vec<usize>,
}

impl Context<'_> {
    fn weight(&self, id: WeightId) -> &[f32] {
        &self.weights[id.index()].values
    }
}

/// Runs one op; `Sample` is not one of them.
pub(super) fn run(op: &Op, cx: &Context<'_>, inputs: &[&[f32]], kv: &mut ReferenceKv) -> Vec<Vec<f32>> {
    let out = match op {
        Op::Embed { table } => embed(cx, *table),
        Op::RmsNorm { weight, eps } => rms_norm(inputs[0], cx.weight(*weight), *eps),
        Op::Linear { weight, bias } => linear(inputs[0], cx, *weight, bias.map(|b| cx.weight(b))),
        Op::Add => add(inputs[0], inputs[1]),
        Op::SiluMul => silu_mul(inputs[0], cx.in_cols[0] / 2),
        Op::SliceCols { start, len } => slice_cols(inputs[0], cx.in_cols[0], *start, *len),
        Op::Rope(spec) => rope(inputs[0], cx, spec),
        Op::KvAppend { kv: layer } => {
            kv_append(inputs[0], inputs[1], cx, *layer, kv);
            return Vec::new();
        }
        Op::PagedAttention { spec, kv: layer } => paged_attention(inputs[0], cx, spec, *layer, kv),
        Op::GatherRows => gather_rows(inputs[0], cx),
        Op::TopK { k, renormalize } => return top_k(inputs[0], cx.in_cols[0], *k, *renormalize),
        Op::ExpertLinear { weight } => expert_linear(inputs[0], inputs[1], cx, *weight),
        Op::WeightedSum => weighted_sum(inputs[0], inputs[1], cx),
        Op::AllReduce => all_reduce(inputs[0]),
        Op::AllGather => all_gather(inputs[0]),
        Op::Attention { .. } | Op::LinearAdd { .. } | Op::LinearSiluMul { .. } => {
            unreachable!("{} is lowered before it runs", op.stem())
        }
    };
    vec![out]
}

fn embed(cx: &Context<'_>, table: WeightId) -> Vec<f32> {
    let (cols, table) = (cx.decls[table.index()].num_cols(), cx.weight(table));
    cx.batch.tokens.iter().flat_map(|t| &table[t.index() * cols..][..cols]).copied().collect()
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let norm = |group: &[f32]| {
        let mean = group.iter().map(|x| x * x).sum::<f32>() / group.len() as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        group.iter().zip(weight).map(|(x, w)| x * scale * w).collect::<Vec<_>>()
    };
    x.chunks(weight.len()).flat_map(norm).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn linear(x: &[f32], cx: &Context<'_>, weight: WeightId, bias: Option<&[f32]>) -> Vec<f32> {
    let (decl, w) = (&cx.decls[weight.index()], &cx.weights[weight.index()]);
    let row = |x: &[f32]| {
        let mut row = w.products(x, 0..decl.num_rows());
        if let Some(bias) = bias {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        row
    };
    x.chunks(decl.num_cols()).flat_map(row).collect()
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn silu_mul(x: &[f32], n: usize) -> Vec<f32> {
    let row = |row: &[f32]| (0..n).map(|i| silu(row[i]) * row[n + i]).collect::<Vec<_>>();
    x.chunks(2 * n).flat_map(row).collect()
}

fn slice_cols(x: &[f32], cols: usize, start: usize, len: usize) -> Vec<f32> {
    x.chunks(cols).flat_map(|row| &row[start..start + len]).copied().collect()
}

fn rope(x: &[f32], cx: &Context<'_>, spec: &RopeSpec) -> Vec<f32> {
    let (d, half, inv_freq) = (spec.head_dim, spec.head_dim / 2, spec.inv_freq());
    let mut out = x.to_vec();
    for (row, &position) in out.chunks_mut(cx.in_cols[0]).zip(&cx.batch.positions) {
        let rotation = spec.rotation(position, &inv_freq);
        for head in row.chunks_mut(d) {
            for (i, [cos, sin]) in rotation.iter().enumerate() {
                let (a, b) = (head[i], head[half + i]);
                head[i] = a * cos - b * sin;
                head[half + i] = b * cos + a * sin;
            }
        }
    }
    out
}

fn kv_append(k: &[f32], v: &[f32], cx: &Context<'_>, layer: KvLayer, kv: &mut ReferenceKv) {
    let g = kv.geometries()[layer.group];
    let cols = cx.in_cols[0];
    for seq in &cx.batch.seqs {
        for i in 0..seq.num_rows {
            let (block, offset) = seq.locate(layer.group, seq.kv_start + i, g.block_len);
            let row = (seq.first_row + i) * cols;
            for (part, x) in [k, v].into_iter().enumerate() {
                for (head, x) in x[row..row + cols].chunks(g.head_dim).enumerate() {
                    kv.store(layer, block, part, head, offset, x);
                }
            }
        }
    }
}

fn paged_attention(
    q: &[f32],
    cx: &Context<'_>,
    spec: &AttentionSpec,
    layer: KvLayer,
    kv: &ReferenceKv,
) -> Vec<f32> {
    let block_len = kv.geometries()[layer.group].block_len;
    let (d, group) = (spec.head_dim, spec.num_heads / spec.num_kv_heads);
    let mut out = vec![0.0; q.len()];
    for seq in &cx.batch.seqs {
        for i in 0..seq.num_rows {
            let last = seq.kv_start + i;
            let first = spec.window.map_or(0, |w| (last + 1).saturating_sub(w));
            for head in 0..spec.num_heads {
                let at = ((seq.first_row + i) * spec.num_heads + head) * d;
                let row = |part, index| {
                    let (block, offset) = seq.locate(layer.group, index, block_len);
                    kv.head(layer, block, part, head / group, offset)
                };
                let scores: Vec<f32> =
                    (first..=last).map(|j| dot(&q[at..at + d], row(0, j)) * spec.scale).collect();
                let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let weights: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
                let sum: f32 = weights.iter().sum();
                for (j, w) in (first..).zip(&weights) {
                    for (o, v) in out[at..at + d].iter_mut().zip(row(1, j)) {
                        *o += w / sum * v;
                    }
                }
            }
        }
    }
    out
}

fn gather_rows(x: &[f32], cx: &Context<'_>) -> Vec<f32> {
    let cols = cx.in_cols[0];
    cx.batch.outputs.iter().flat_map(|o| &x[o.row * cols..(o.row + 1) * cols]).copied().collect()
}

fn top_k(logits: &[f32], num_experts: usize, k: usize, renormalize: bool) -> Vec<Vec<f32>> {
    let (mut ids, mut weights) = (Vec::new(), Vec::new());
    for row in logits.chunks(num_experts) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exp: Vec<f32> = row.iter().map(|x| (x - max).exp()).collect();
        let sum: f32 = exp.iter().sum();
        let mut order: Vec<usize> = (0..num_experts).collect();
        order.sort_by(|&a, &b| exp[b].total_cmp(&exp[a]).then(a.cmp(&b)));
        let chosen: f32 = order[..k].iter().map(|&e| exp[e] / sum).sum();
        for &expert in &order[..k] {
            ids.push(expert as f32);
            weights.push(exp[expert] / sum / if renormalize { chosen } else { 1.0 });
        }
    }
    vec![ids, weights]
}

fn expert_linear(x: &[f32], ids: &[f32], cx: &Context<'_>, weight: WeightId) -> Vec<f32> {
    let (shape, w) = (&cx.decls[weight.index()].shape, &cx.weights[weight.index()]);
    let (n, k) = (shape[1], shape[2]);
    // Each row of x serves as many consecutive ids as there are experts per token.
    let times = ids.len() * k / x.len().max(1);
    let row = |(i, &id): (usize, &f32)| {
        let x = &x[i / times * k..][..k];
        w.products(x, id as usize * n..(id as usize + 1) * n)
    };
    ids.iter().enumerate().flat_map(row).collect()
}

fn weighted_sum(x: &[f32], weights: &[f32], cx: &Context<'_>) -> Vec<f32> {
    let cols = cx.in_cols[0];
    let times = weights.len() / cx.batch.tokens.len();
    let token = |(x, w): (&[f32], &[f32])| {
        (0..cols).map(|c| (0..times).map(|j| x[j * cols + c] * w[j]).sum::<f32>()).collect::<Vec<_>>()
    };
    x.chunks(times * cols).zip(weights.chunks(times)).flat_map(token).collect()
}

/// In a world of one rank.
fn all_reduce(x: &[f32]) -> Vec<f32> {
    x.to_vec()
}

/// In a world of one rank.
fn all_gather(x: &[f32]) -> Vec<f32> {
    x.to_vec()
}
