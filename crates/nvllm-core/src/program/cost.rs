//! What an op costs: bytes moved and floating-point operations, so that every measurement can name
//! its limit.

use super::{Node, Op, Program, Rows};
use crate::{Limits, WeightId, WeightInfo};

/// The extents of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// New tokens.
    pub tokens: usize,
    /// Rows whose logits are wanted.
    pub outputs: usize,
    /// Sequences.
    pub seqs: usize,
    /// Distinct KV positions read, summed over sequences.
    pub kv_positions: usize,
    /// Pairs of a query token and a KV position that it sees, summed over sequences.
    pub kv_pairs: usize,
}

impl Counts {
    /// One new token for each of `seqs` sequences that have `context` tokens in the cache.
    pub const fn decode(seqs: usize, context: usize) -> Self {
        let kv = seqs * (context + 1);
        Self { tokens: seqs, outputs: seqs, seqs, kv_positions: kv, kv_pairs: kv }
    }

    /// A prompt of `tokens` from scratch, last row wanted.
    pub const fn prefill(tokens: usize) -> Self {
        Self { tokens, outputs: 1, seqs: 1, kv_positions: tokens, kv_pairs: tokens * (tokens + 1) / 2 }
    }

    const fn rows(&self, rows: Rows) -> usize {
        rows.resolve(self.tokens, self.outputs, self.seqs)
    }
}

/// The cost of one node, or of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OpCost {
    /// Weight bytes read, each weight once.
    pub weight_bytes: f64,
    /// Activation bytes read and written.
    pub act_bytes: f64,
    /// KV cache bytes read and written.
    pub kv_bytes: f64,
    /// Multiplications and additions.
    pub flops: f64,
}

impl OpCost {
    /// All bytes.
    pub fn bytes(&self) -> f64 {
        self.weight_bytes + self.act_bytes + self.kv_bytes
    }
}

impl std::ops::Add for OpCost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            weight_bytes: self.weight_bytes + other.weight_bytes,
            act_bytes: self.act_bytes + other.act_bytes,
            kv_bytes: self.kv_bytes + other.kv_bytes,
            flops: self.flops + other.flops,
        }
    }
}

impl std::iter::Sum for OpCost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), std::ops::Add::add)
    }
}

impl Program {
    /// The cost of each node in a step of `counts`; `weights` by id.
    pub fn costs(&self, counts: &Counts, limits: &Limits, weights: &[WeightInfo]) -> Vec<OpCost> {
        self.nodes.iter().map(|node| self.node_cost(node, counts, limits, weights)).collect()
    }

    /// The sum of [`costs`](Self::costs), and sampling.
    pub fn cost(&self, counts: &Counts, limits: &Limits, weights: &[WeightInfo]) -> OpCost {
        self.costs(counts, limits, weights).into_iter().fold(self.sampling_cost(counts), std::ops::Add::add)
    }

    /// What sampling every output row costs: its logits are read, each row leaves a token of 4
    /// bytes. Nothing for a program without logits.
    pub fn sampling_cost(&self, counts: &Counts) -> OpCost {
        let Some(id) = self.logits() else { return OpCost::default() };
        let rows = counts.outputs as f64;
        let logits = rows * self.value(id).cols as f64;
        OpCost { act_bytes: 4.0 * (logits + rows), flops: 3.0 * logits, ..OpCost::default() }
    }

    fn node_cost(&self, node: &Node, counts: &Counts, limits: &Limits, weights: &[WeightInfo]) -> OpCost {
        let elements = |id: crate::ValueId| {
            let value = self.value(id);
            (counts.rows(value.rows) * value.cols) as f64
        };
        let act_bytes = node
            .inputs
            .iter()
            .chain(&node.outputs)
            .map(|&id| elements(id) * self.value(id).kind.dtype(limits).size() as f64)
            .sum();
        let out = node.outputs.first().map_or(0.0, |&id| elements(id));
        let input = node.inputs.first().map_or(0.0, |&id| elements(id));
        let bytes = |id: WeightId| weights[id.index()].bytes() as f64;
        let mut cost = OpCost { act_bytes, ..OpCost::default() };
        cost.weight_bytes = node.op.weights().into_iter().map(bytes).sum();
        match &node.op {
            Op::Embed { table } => {
                let share = counts.tokens as f64 / self.weights[table.index()].num_rows() as f64;
                cost.weight_bytes *= share.min(1.0);
            }
            Op::RmsNorm { .. } => cost.flops = 4.0 * out,
            Op::Linear { weight, .. } => {
                cost.flops = 2.0 * out * self.weights[weight.index()].num_cols() as f64;
            }
            Op::LinearAdd { weight, .. } => {
                cost.flops = out * (2.0 * self.weights[weight.index()].num_cols() as f64 + 1.0);
            }
            Op::LinearSiluMul { weight, .. } => {
                cost.flops = out * (4.0 * self.weights[weight.index()].num_cols() as f64 + 5.0);
            }
            Op::ExpertLinear { weight } => {
                let decl = &self.weights[weight.index()];
                cost.flops = 2.0 * out * decl.num_cols() as f64;
                // Rows are spread over experts by data: count as many distinct experts as there can
                // be.
                let rows = node.outputs.first().map_or(0, |&id| counts.rows(self.value(id).rows));
                cost.weight_bytes *= (rows as f64 / decl.shape[0] as f64).min(1.0);
            }
            Op::Add | Op::WeightedSum => cost.flops = input,
            Op::SiluMul => cost.flops = 5.0 * out,
            Op::Rope(_) => cost.flops = 3.0 * out,
            Op::TopK { .. } => cost.flops = 4.0 * input,
            Op::KvAppend { kv } => {
                let head_dim = self.kv[kv.group].head_dim;
                cost.kv_bytes = 2.0 * input / head_dim as f64 * limits.kv_format.row_bytes(head_dim) as f64;
            }
            Op::PagedAttention { spec, .. } => attention(&mut cost, spec, counts, limits),
            Op::Attention { norm, spec, .. } => {
                attention(&mut cost, spec, counts, limits);
                cost.kv_bytes += (token_bytes(spec, limits) * counts.tokens) as f64;
                cost.flops += (3.0 + if norm.is_some() { 4.0 } else { 0.0 }) * input;
            }
            Op::SliceCols { .. } | Op::GatherRows | Op::AllReduce | Op::AllGather => {}
        }
        cost
    }
}

/// Adds what reading the cache and the softmax cost; a window bounds both.
fn attention(cost: &mut OpCost, spec: &super::AttentionSpec, counts: &Counts, limits: &Limits) {
    let window = spec.window.unwrap_or(usize::MAX);
    let positions = counts.kv_positions.min(counts.seqs.saturating_mul(window).saturating_add(counts.tokens));
    let pairs = counts.kv_pairs.min(counts.tokens.saturating_mul(window));
    cost.kv_bytes += (token_bytes(spec, limits) * positions) as f64;
    cost.flops += (4 * spec.num_heads * spec.head_dim * pairs) as f64;
}

/// Bytes of the keys and values of one token.
fn token_bytes(spec: &super::AttentionSpec, limits: &Limits) -> usize {
    2 * spec.num_kv_heads * limits.kv_format.row_bytes(spec.head_dim)
}
