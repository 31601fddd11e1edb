//! One function an op: its values' places, its weights, one call of the kernels.

use nvllm_core::host::{Batch, BatchOutput};
use nvllm_core::program::{Node, QkNorm};
use nvllm_core::{AttentionSpec, KvLayer, Op, RopeSpec, ValueId, WeightId};

use super::elem::{act_elem, mode};
use super::head::Head;
use super::kv::CpuKv;
use super::tables::{StepTables, queries};
use super::values::Values;
use super::weights::Input;
use crate::{
    ActMode, AttentionShape, Cpu, Elem, ExpertRows, KvPages, KvPagesMut, Result, Rows, RowsMut, Segment,
    Weights,
};

/// Most experts of a token whose rows are summed.
pub(super) const MAX_EXPERTS_PER_TOKEN: usize = 64;

/// Intermediates of ops, in lines of 8 bytes.
#[derive(Default)]
pub(super) struct Scratch {
    /// Of fused attention: normed queries and keys, rotated queries and keys.
    attention: [Vec<u64>; 4],
    /// Of a linear layer: its input rounded, or in another order, as f32.
    input: Vec<u64>,
}

impl Scratch {
    pub(super) fn bytes(&self) -> usize {
        self.attention.iter().chain([&self.input]).map(|lines| size_of_val(&lines[..])).sum()
    }
}

/// The first `len` bytes of a buffer that grows to hold them.
fn bytes_of(lines: &mut Vec<u64>, len: usize) -> &mut [u8] {
    if lines.len() * 8 < len {
        lines.resize(len.div_ceil(8), 0);
    }
    &mut bytemuck::cast_slice_mut(lines)[..len]
}

/// An expert, its rows that lie together, and the input that they take.
type Run<'a> = (usize, (Segment<'a>, &'a Input));

/// What the ops of one step work with.
pub(super) struct Machine<'a> {
    pub cpu: &'a mut Cpu,
    pub kv: &'a mut CpuKv,
    pub tables: &'a mut StepTables,
    pub scratch: &'a mut Scratch,
    pub head: &'a mut Option<Head>,
    pub values: &'a Values,
    pub batch: &'a Batch,
}

impl Machine<'_> {
    /// Runs one node; the sampler is not part of a forward pass.
    pub(super) fn run(&mut self, node: &Node) -> Result<()> {
        let (ins, outs, v) = (&node.inputs, &node.outputs, self.values);
        match &node.op {
            Op::Embed { table } => self.embed(*table, outs[0]),
            Op::RmsNorm { weight, eps } => {
                self.cpu.rms_norm(v.rows(ins[0])?, v.norm(*weight), *eps, v.rows_mut(outs[0])?)
            }
            Op::Linear { weight, bias } => self.linear(ins[0], *weight, *bias, outs[0]),
            Op::Add => self.cpu.add(v.rows(ins[0])?, v.rows(ins[1])?, v.rows_mut(outs[0])?),
            Op::SiluMul => self.cpu.silu_mul(v.rows(ins[0])?, v.rows_mut(outs[0])?),
            Op::SliceCols { start, len } => {
                self.cpu.convert(v.rows(ins[0])?.columns(*start, *len)?, v.rows_mut(outs[0])?)
            }
            Op::Rope(spec) => self.cpu.rope(
                v.rows(ins[0])?,
                spec.head_dim,
                self.tables.rotation(spec),
                v.rows_mut(outs[0])?,
            ),
            Op::KvAppend { kv } => self.kv_append(v.rows(ins[0])?, v.rows(ins[1])?, *kv),
            Op::PagedAttention { spec, kv } => self.paged_attention(v.rows(ins[0])?, spec, *kv, outs[0]),
            Op::Attention { norm, rope, spec, kv } => {
                self.attention(ins[0], *norm, rope, (spec, *kv), outs[0])
            }
            Op::GatherRows => self.gather_rows(ins[0], outs[0]),
            Op::TopK { k, renormalize } => {
                self.top_k(ins[0], *k, *renormalize, (outs[0], outs[1]));
                Ok(())
            }
            Op::ExpertLinear { weight } => self.expert_linear(ins[0], ins[1], *weight, outs[0]),
            Op::WeightedSum => self.weighted_sum(ins[0], ins[1], outs[0]),
            // A world of one.
            Op::AllReduce | Op::AllGather => self.cpu.convert(v.rows(ins[0])?, v.rows_mut(outs[0])?),
            Op::LinearAdd { .. } | Op::LinearSiluMul { .. } => {
                unreachable!("{} is expanded before it runs", node.op.stem())
            }
        }
    }

    fn embed(&mut self, table: WeightId, out: ValueId) -> Result<()> {
        let segments = self.values.weights.matrix(table).segments();
        self.cpu.gather(&segments, bytemuck::cast_slice(&self.batch.tokens), self.values.rows_mut(out)?)
    }

    fn linear(&mut self, x: ValueId, weight: WeightId, bias: Option<WeightId>, out: ValueId) -> Result<()> {
        if self.exact_logits(x, weight, out)? {
            return Ok(());
        }
        let v = self.values;
        let matrix = v.weights.matrix(weight);
        let bias = bias.map(|id| v.weights.vector(id));
        let mut col = 0;
        for (input, segments, n) in matrix.by_input() {
            let weights = Weights { segments: &segments, k: matrix.cols };
            let bias = bias.map(|bias| &bias[col..col + n]);
            let out = v.rows_mut(out)?.columns(col, n)?;
            let mut buffer = std::mem::take(&mut self.scratch.input);
            let (x, mode) = self.taken(v.rows(x)?, input, &mut buffer)?;
            self.cpu.linear(x, weights, bias, mode, out)?;
            self.scratch.input = buffer;
            col += n;
        }
        Ok(())
    }

    /// Makes logits of which the largest alone is looked at, through a copy of the head. False if
    /// these are others, or there is no copy: then nothing is done.
    fn exact_logits(&mut self, x: ValueId, weight: WeightId, out: ValueId) -> Result<bool> {
        let v = self.values;
        let [BatchOutput { largest_only: true, .. }] = self.batch.outputs[..] else { return Ok(false) };
        let makes = |head: &&mut Head| head.makes(v.program(), weight, out);
        let Some(head) = self.head.as_mut().filter(makes) else { return Ok(false) };
        let (dense, mode) = (v.weights.matrix(weight).dense(), mode(v.limits.activations));
        let out = bytemuck::cast_slice_mut(v.bytes_mut(out));
        head.counts += self.cpu.exact_head(v.rows(x)?, dense, &head.copy, mode, out)?;
        Ok(true)
    }

    /// A linear layer's input as its weights take it, and what is known of its values.
    fn taken<'b>(&self, x: Rows<'b>, input: &Input, buffer: &'b mut Vec<u64>) -> Result<(Rows<'b>, ActMode)> {
        if input.is_plain() {
            return Ok((x, mode(self.values.limits.activations)));
        }
        let (num_rows, cols) = (x.num_rows(), x.cols());
        let bytes = bytes_of(buffer, num_rows * cols * Elem::F32.size());
        self.cpu.convert(x, RowsMut::new(bytes, Elem::F32, num_rows, cols)?)?;
        self.cpu.pool().for_rows(bytes, cols * Elem::F32.size(), |_, row| {
            let row: &mut [f32] = bytemuck::cast_slice_mut(row);
            if let Some((act, scale)) = input.act {
                act.apply(scale, row);
            }
            if let Some(order) = &input.order {
                let logical = row.to_vec();
                row.iter_mut().zip(&**order).for_each(|(x, &col)| *x = logical[col as usize]);
            }
        });
        Ok((Rows::new(bytes, Elem::F32, num_rows, cols)?, ActMode::F32))
    }

    fn kv_append(&mut self, k: Rows<'_>, v: Rows<'_>, kv: KvLayer) -> Result<()> {
        let (bytes, layout) = self.kv.pages_mut(kv);
        self.cpu.append_kv(k, v, &mut KvPagesMut::new(bytes, layout)?, &queries(self.batch, kv.group))
    }

    fn paged_attention(
        &mut self,
        q: Rows<'_>,
        spec: &AttentionSpec,
        kv: KvLayer,
        out: ValueId,
    ) -> Result<()> {
        let shape = AttentionShape { q_heads: spec.num_heads, scale: spec.scale, window: spec.window };
        let (bytes, layout) = self.kv.pages(kv);
        let pages = KvPages::new(bytes, layout)?;
        self.cpu.attention(shape, q, pages, &queries(self.batch, kv.group), self.values.rows_mut(out)?)
    }

    /// As the expansion, value by value and rounding by rounding, without the copies of
    /// `slice_cols`.
    fn attention(
        &mut self,
        qkv: ValueId,
        norm: Option<QkNorm>,
        rope: &RopeSpec,
        (spec, kv): (&AttentionSpec, KvLayer),
        out: ValueId,
    ) -> Result<()> {
        let v = self.values;
        let (qkv, elem) = (v.rows(qkv)?, act_elem(v.limits.activations));
        let (q_cols, kv_cols) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
        let num_rows = qkv.num_rows();
        let buffers = std::mem::take(&mut self.scratch.attention);
        let [mut normed_q, mut normed_k, mut rotated_q, mut rotated_k] = buffers;
        let mut prepare =
            |start: usize, cols: usize, weight, normed: &mut Vec<u64>, rotated: &mut Vec<u64>| {
                let len = num_rows * cols * elem.size();
                let mut x = qkv.columns(start, cols)?;
                if let Some((weight, eps)) = weight {
                    let normed = bytes_of(normed, len);
                    self.cpu.rms_norm(x, v.norm(weight), eps, RowsMut::new(normed, elem, num_rows, cols)?)?;
                    x = Rows::new(normed, elem, num_rows, cols)?;
                }
                let rotated = RowsMut::new(bytes_of(rotated, len), elem, num_rows, cols)?;
                self.cpu.rope(x, rope.head_dim, self.tables.rotation(rope), rotated)
            };
        prepare(0, q_cols, norm.map(|n| (n.q, n.eps)), &mut normed_q, &mut rotated_q)?;
        prepare(q_cols, kv_cols, norm.map(|n| (n.k, n.eps)), &mut normed_k, &mut rotated_k)?;
        let k =
            Rows::new(bytes_of(&mut rotated_k, num_rows * kv_cols * elem.size()), elem, num_rows, kv_cols)?;
        self.kv_append(k, qkv.columns(q_cols + kv_cols, kv_cols)?, kv)?;
        let q = Rows::new(bytes_of(&mut rotated_q, num_rows * q_cols * elem.size()), elem, num_rows, q_cols)?;
        self.paged_attention(q, spec, kv, out)?;
        self.scratch.attention = [normed_q, normed_k, rotated_q, rotated_k];
        Ok(())
    }

    fn gather_rows(&mut self, x: ValueId, out: ValueId) -> Result<()> {
        let rows: Vec<u32> = self.batch.outputs.iter().map(|o| o.row as u32).collect();
        let from = Segment::Dense(self.values.bytes(x), self.values.rows(x)?.elem());
        self.cpu.gather(&[from], &rows, self.values.rows_mut(out)?)
    }

    /// A few numbers a token: not worth a kernel.
    fn top_k(&mut self, logits: ValueId, k: usize, renormalize: bool, (ids, weights): (ValueId, ValueId)) {
        let v = self.values;
        let num_experts = v.shape(logits).1;
        let ids: &mut [i32] = bytemuck::cast_slice_mut(v.bytes_mut(ids));
        let weights: &mut [f32] = bytemuck::cast_slice_mut(v.bytes_mut(weights));
        let mut order: Vec<u32> = Vec::with_capacity(num_experts);
        let rows =
            v.words::<f32>(logits).chunks(num_experts).zip(ids.chunks_mut(k)).zip(weights.chunks_mut(k));
        for ((row, ids), weights) in rows {
            order.clear();
            order.extend(0..num_experts as u32);
            order.sort_unstable_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
            let max = row[order[0] as usize];
            let sum: f32 = row.iter().map(|x| (x - max).exp()).sum();
            for ((id, weight), &expert) in ids.iter_mut().zip(&mut *weights).zip(&order) {
                *id = expert as i32;
                *weight = (row[expert as usize] - max).exp() / sum;
            }
            if renormalize {
                let chosen: f32 = weights.iter().sum();
                weights.iter_mut().for_each(|w| *w /= chosen);
            }
        }
    }

    fn expert_linear(&mut self, x: ValueId, ids: ValueId, weight: WeightId, out: ValueId) -> Result<()> {
        let v = self.values;
        let matrix = v.weights.matrix(weight);
        let ids = v.words::<i32>(ids);
        // Each row of x serves as many consecutive ids as there are experts per token.
        let times = (ids.len() / v.shape(x).0.max(1)).max(1);
        let (mut x_rows, mut out_rows) =
            (vec![Vec::new(); matrix.num_experts], vec![Vec::new(); matrix.num_experts]);
        for (row, &id) in ids.iter().enumerate() {
            x_rows[id as usize].push((row / times) as u32);
            out_rows[id as usize].push(row as u32);
        }
        // An expert's matrix may lie in several segments (gate, up), or one segment may hold all
        // experts.
        let mut start = 0;
        while start < matrix.num_rows {
            let len = matrix.run_len(0, start);
            let chosen = (0..matrix.num_experts).filter(|&e| !x_rows[e].is_empty());
            let runs: Vec<_> = chosen.map(|e| (e, matrix.run(e, start, len))).collect();
            // Experts differ in form or input in odd checkpoints only.
            let alike = |a: &Run<'_>, b: &Run<'_>| a.1.1 == b.1.1 && a.1.0.elem() == b.1.0.elem();
            for runs in runs.chunk_by(alike) {
                let mut experts = Vec::with_capacity(runs.len());
                for &(e, (weight, _)) in runs {
                    experts.push(ExpertRows { weight, x_rows: &x_rows[e], out_rows: &out_rows[e] });
                }
                let out = v.rows_mut(out)?.columns(start, len)?;
                let mut buffer = std::mem::take(&mut self.scratch.input);
                let (x, mode) = self.taken(v.rows(x)?, runs[0].1.1, &mut buffer)?;
                self.cpu.expert_linear(x, &experts, mode, out)?;
                self.scratch.input = buffer;
            }
            start += len;
        }
        Ok(())
    }

    fn weighted_sum(&mut self, x: ValueId, weights: ValueId, out: ValueId) -> Result<()> {
        let v = self.values;
        let weights = v.words::<f32>(weights);
        let rows: Vec<u32> = (0..weights.len() as u32).collect();
        self.cpu.weighted_sum(v.rows(x)?, &rows, weights, v.rows_mut(out)?)
    }
}
