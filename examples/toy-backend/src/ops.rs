//! The primitive ops. `nvllm_core::Op` has their formulas.

use nvllm_core::host::{Batch, BatchSeq};
use nvllm_core::{AttentionSpec, KvLayer, Op, Result, RopeSpec, Weight, WeightId};

use crate::kv::{Place, ToyKv};

/// A value that an op reads.
pub(crate) struct Input {
    pub data: Vec<f32>,
    pub cols: usize,
}

impl Input {
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks(self.cols)
    }

    fn row(&self, at: usize) -> &[f32] {
        &self.data[at * self.cols..][..self.cols]
    }
}

/// What `op` makes of its inputs: one list an output.
pub(crate) fn run(
    op: &Op,
    inputs: &[Input],
    batch: &Batch,
    weights: &[Weight],
    kv: &mut ToyKv,
) -> Result<Vec<Vec<f32>>> {
    let weight = |id: WeightId| &weights[id.index()];
    let out = match op {
        Op::Embed { table } => embed(weight(*table), batch)?,
        Op::RmsNorm { weight: w, eps } => rms_norm(&inputs[0], &weight(*w).to_f32()?, *eps),
        Op::Linear { weight: w, bias } => {
            let bias = bias.map(|id| weight(id).to_f32()).transpose()?;
            linear(&inputs[0], weight(*w), bias.as_deref())?
        }
        Op::Add => inputs[0].data.iter().zip(&inputs[1].data).map(|(a, b)| a + b).collect(),
        Op::SiluMul => silu_mul(&inputs[0]),
        Op::SliceCols { start, len } => {
            inputs[0].rows().flat_map(|row| &row[*start..start + len]).copied().collect()
        }
        Op::Rope(spec) => rope(&inputs[0], batch, spec),
        Op::KvAppend { kv: layer } => {
            kv_append(inputs, batch, *layer, kv);
            return Ok(Vec::new());
        }
        Op::PagedAttention { spec, kv: layer } => paged_attention(&inputs[0], batch, spec, *layer, kv),
        Op::GatherRows => {
            batch.outputs.iter().flat_map(|output| inputs[0].row(output.row)).copied().collect()
        }
        Op::TopK { k, renormalize } => return Ok(top_k(&inputs[0], *k, *renormalize)),
        Op::ExpertLinear { weight: w } => expert_linear(&inputs[0], &inputs[1], weight(*w))?,
        Op::WeightedSum => weighted_sum(&inputs[0], &inputs[1], batch.tokens.len()),
        // A world of one rank.
        Op::AllReduce | Op::AllGather => inputs[0].data.clone(),
        Op::Attention { .. } | Op::LinearAdd { .. } | Op::LinearSiluMul { .. } => {
            unreachable!("`supports` refuses {}", op.stem())
        }
    };
    Ok(vec![out])
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn embed(table: &Weight, batch: &Batch) -> Result<Vec<f32>> {
    let cols = table.decl.num_cols();
    let mut out = vec![0.0; batch.tokens.len() * cols];
    for (token, row) in batch.tokens.iter().zip(out.chunks_mut(cols)) {
        table.dequant_row(token.index(), row)?;
    }
    Ok(out)
}

fn rms_norm(x: &Input, weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = x.data.clone();
    for group in out.chunks_mut(weight.len()) {
        let root = (dot(group, group) / group.len() as f32 + eps).sqrt();
        group.iter_mut().zip(weight).for_each(|(x, w)| *x = *x / root * w);
    }
    out
}

/// The products of `x` with rows `first..first + out.len()` of `weight`.
fn products(x: &[f32], weight: &Weight, first: usize, out: &mut [f32]) -> Result<()> {
    let mut row = vec![0.0; x.len()];
    for (i, out) in out.iter_mut().enumerate() {
        weight.dequant_row(first + i, &mut row)?;
        *out = dot(x, &row);
    }
    Ok(())
}

fn linear(x: &Input, weight: &Weight, bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let n = weight.decl.num_rows();
    let mut out = vec![0.0; x.rows().count() * n];
    for (x, out) in x.rows().zip(out.chunks_mut(n)) {
        products(x, weight, 0, out)?;
        out.iter_mut().zip(bias.unwrap_or_default()).for_each(|(y, b)| *y += b);
    }
    Ok(out)
}

fn silu_mul(x: &Input) -> Vec<f32> {
    let half = x.cols / 2;
    let gated = |(gate, up): (&f32, &f32)| gate / (1.0 + (-gate).exp()) * up;
    x.rows().flat_map(|row| row[..half].iter().zip(&row[half..]).map(gated).collect::<Vec<_>>()).collect()
}

fn rope(x: &Input, batch: &Batch, spec: &RopeSpec) -> Vec<f32> {
    let (half, inv_freq) = (spec.head_dim / 2, spec.inv_freq());
    let mut out = x.data.clone();
    for (row, &position) in out.chunks_mut(x.cols).zip(&batch.positions) {
        let rotation = spec.rotation(position, &inv_freq);
        for head in row.chunks_mut(spec.head_dim) {
            let (left, right) = head.split_at_mut(half);
            for ((a, b), [cos, sin]) in left.iter_mut().zip(right).zip(&rotation) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
    out
}

/// Where the key (part 0) or value (1) of a sequence's KV index lies.
fn place(seq: &BatchSeq, layer: KvLayer, index: usize, part: usize, head: usize, kv: &ToyKv) -> Place {
    let (block, offset) = seq.locate(layer.group, index, kv.geometries()[layer.group].block_len);
    Place { layer, block, part, head, offset }
}

fn kv_append(inputs: &[Input], batch: &Batch, layer: KvLayer, kv: &mut ToyKv) {
    let head_dim = kv.geometries()[layer.group].head_dim;
    for seq in &batch.seqs {
        for i in 0..seq.num_rows {
            for (part, x) in inputs.iter().enumerate() {
                for (head, x) in x.row(seq.first_row + i).chunks(head_dim).enumerate() {
                    kv.store(place(seq, layer, seq.kv_start + i, part, head, kv), x);
                }
            }
        }
    }
}

fn paged_attention(q: &Input, batch: &Batch, spec: &AttentionSpec, layer: KvLayer, kv: &ToyKv) -> Vec<f32> {
    let mut out = vec![0.0; q.data.len()];
    let mut heads = out.chunks_mut(spec.head_dim).zip(q.data.chunks(spec.head_dim));
    for seq in &batch.seqs {
        for i in 0..seq.num_rows {
            let last = seq.kv_start + i;
            let seen = spec.window.map_or(0, |window| (last + 1).saturating_sub(window))..last + 1;
            for (head, (out, q)) in heads.by_ref().take(spec.num_heads).enumerate() {
                let kv_head = head * spec.num_kv_heads / spec.num_heads;
                let load = |index, part| kv.load(place(seq, layer, index, part, kv_head, kv));
                let scores: Vec<f32> = seen.clone().map(|k| dot(q, &load(k, 0)) * spec.scale).collect();
                let weights = softmax(&scores);
                for (index, weight) in seen.clone().zip(weights) {
                    out.iter_mut().zip(load(index, 1)).for_each(|(o, v)| *o += weight * v);
                }
            }
        }
    }
    out
}

fn softmax(x: &[f32]) -> Vec<f32> {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f32> = x.iter().map(|x| (x - max).exp()).collect();
    let sum: f32 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

fn top_k(logits: &Input, k: usize, renormalize: bool) -> Vec<Vec<f32>> {
    let (mut ids, mut weights) = (Vec::new(), Vec::new());
    for row in logits.rows() {
        let shares = softmax(row);
        let mut order: Vec<usize> = (0..row.len()).collect();
        // Stable, so that among equals the lower id is first.
        order.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]));
        order.truncate(k);
        let chosen: f32 = order.iter().map(|&expert| shares[expert]).sum();
        let total = if renormalize { chosen } else { 1.0 };
        weights.extend(order.iter().map(|&expert| shares[expert] / total));
        ids.extend(order.iter().map(|&expert| expert as f32));
    }
    vec![ids, weights]
}

fn expert_linear(x: &Input, ids: &Input, weight: &Weight) -> Result<Vec<f32>> {
    let (num_ids, num_rows, n) = (ids.data.len(), x.rows().count(), weight.decl.shape[1]);
    let mut out = vec![0.0; num_ids * n];
    for (i, out) in out.chunks_mut(n).enumerate() {
        // A row of x serves as many ids in turn as a token has experts, or one.
        products(x.row(i * num_rows / num_ids), weight, ids.data[i] as usize * n, out)?;
    }
    Ok(out)
}

fn weighted_sum(x: &Input, weights: &Input, num_tokens: usize) -> Vec<f32> {
    let mut out = vec![0.0; num_tokens * x.cols];
    let times = weights.data.len() / num_tokens;
    for (i, (row, weight)) in x.rows().zip(&weights.data).enumerate() {
        let token = &mut out[i / times * x.cols..][..x.cols];
        token.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * weight);
    }
    out
}
