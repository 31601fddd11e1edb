//! One function an op: its values' places, its weights, one call of the kernels.

use nvllm_core::host::Batch;
use nvllm_core::program::{Node, QkNorm};
use nvllm_core::{Activations, AttentionSpec, KvLayer, Op, RopeSpec, ValueId, WeightId};

use super::act_elem;
use super::kv::CpuKv;
use super::tables::{StepTables, queries};
use super::values::Values;
use crate::{ActMode, AttentionShape, Cpu, ExpertRows, KvPages, KvPagesMut, Result, Rows, RowsMut, Weights};

/// Most experts of a token whose rows are summed.
pub(super) const MAX_EXPERTS_PER_TOKEN: usize = 64;

/// How linear layers multiply under these activations.
pub(super) const fn mode(activations: Activations) -> ActMode {
    match activations {
        Activations::F32 => ActMode::F32,
        Activations::Bf16 => ActMode::Bf16,
    }
}

/// Intermediates of fused attention: normed queries and keys, rotated queries and keys. In lines of
/// 8 bytes.
#[derive(Default)]
pub(super) struct AttentionRows([Vec<u64>; 4]);

impl AttentionRows {
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|lines| size_of_val(&lines[..])).sum()
    }
}

/// The first `len` bytes of a buffer that grows to hold them.
fn bytes_of(lines: &mut Vec<u64>, len: usize) -> &mut [u8] {
    if lines.len() * 8 < len {
        lines.resize(len.div_ceil(8), 0);
    }
    &mut bytemuck::cast_slice_mut(lines)[..len]
}

/// What the ops of one step work with.
pub(super) struct Machine<'a> {
    pub cpu: &'a mut Cpu,
    pub kv: &'a mut CpuKv,
    pub tables: &'a mut StepTables,
    pub scratch: &'a mut AttentionRows,
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
        let table = self.values.weights.matrix(table);
        let segments: Vec<&[u8]> = table.segments.iter().map(AsRef::as_ref).collect();
        let ids = bytemuck::cast_slice(&self.batch.tokens);
        self.cpu.gather(&segments, table.elem, ids, self.values.rows_mut(out)?)
    }

    fn linear(&mut self, x: ValueId, weight: WeightId, bias: Option<WeightId>, out: ValueId) -> Result<()> {
        let v = self.values;
        let matrix = v.weights.matrix(weight);
        let segments: Vec<&[u8]> = matrix.segments.iter().map(AsRef::as_ref).collect();
        let weights = Weights { segments: &segments, elem: matrix.elem, k: matrix.cols };
        let bias = bias.map(|id| v.weights.vector(id));
        self.cpu.linear(v.rows(x)?, weights, bias, mode(v.limits.activations), v.rows_mut(out)?)
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
        let AttentionRows(buffers) = std::mem::take(self.scratch);
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
        *self.scratch = AttentionRows([normed_q, normed_k, rotated_q, rotated_k]);
        Ok(())
    }

    fn gather_rows(&mut self, x: ValueId, out: ValueId) -> Result<()> {
        let rows: Vec<u32> = self.batch.outputs.iter().map(|o| o.row as u32).collect();
        let elem = self.values.rows(x)?.elem();
        self.cpu.gather(&[self.values.bytes(x)], elem, &rows, self.values.rows_mut(out)?)
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
        let row_bytes = matrix.cols * matrix.elem.size();
        // An expert's matrix may lie in several segments (gate, up), or one segment may hold all
        // experts.
        let mut start = 0;
        while start < matrix.num_rows {
            let len = matrix.run_len(0, start);
            let experts: Vec<_> = (0..matrix.num_experts)
                .filter(|&e| !x_rows[e].is_empty())
                .map(|e| ExpertRows {
                    weight: &matrix.run(e, start)[..len * row_bytes],
                    x_rows: &x_rows[e],
                    out_rows: &out_rows[e],
                })
                .collect();
            let out = v.rows_mut(out)?.columns(start, len)?;
            self.cpu.expert_linear(v.rows(x)?, &experts, matrix.elem, mode(v.limits.activations), out)?;
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
