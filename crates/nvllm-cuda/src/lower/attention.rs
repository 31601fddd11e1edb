//! Kernels of `rope`, `kv_append`, `paged_attention` and fused `attention`.

use nvllm_core::program::QkNorm;
use nvllm_core::{
    AttentionSpec, KvFormat, KvGeometry, KvLayer, Op, OrderId, RopeSpec, Rows, RowsOf, WeightId,
};

use super::choice::{Chosen, KernelCandidate, any_rows, candidate_launches};
use super::{LANES, Lowering, Operand, attends_fast, c_type, dtype_code};
use crate::error::Result;
use crate::kernels::attention::{decode, prefill};
use crate::kernels::common::dtype;
use crate::kernels::kv_append::general::{CACHE_FP8, CACHE_INT8};
use crate::kernels::qk_norm_rope_append::fused::UNITS;
use crate::launch::{Args, Dim, Extents, Launch};
use crate::memory::Address;
use crate::modules::SharedKernel;
use crate::work_lists::{CHUNK, ListAt};

/// Attention over one layer's cache.
pub(crate) struct PagedAttention {
    pub q: Operand,
    pub y: Operand,
    pub spec: AttentionSpec,
    pub geometry: KvGeometry,
    /// Keys and values.
    pub cache: [Address; 2],
    /// Their scales.
    pub scales: [Address; 2],
    /// Block tables of the group.
    pub tables: Address,
    /// The step's work list, if the fast kernels take the shape.
    pub list: Option<ListAt>,
    /// Whether no node before it attends.
    pub first: bool,
}

/// The order of the fast kernels, as kernels/attention/attention_order.cuh has it.
const CHUNK256: OrderId = OrderId("attention.chunk256");

/// That of the fused op: the norms' (kernels/qk_norm_rope_append/), then attention's.
pub(super) const FUSED: OrderId = OrderId("norm.half_warp, attention.chunk256");

/// Whether an op reads a cache.
const fn attends(op: &Op) -> bool {
    matches!(op, Op::Attention { .. } | Op::PagedAttention { .. })
}

/// Best first.
static TABLE: [KernelCandidate<PagedAttention>; 2] = [
    KernelCandidate {
        order: CHUNK256,
        takes: |a| a.list.is_some(),
        most_rows: any_rows,
        launch: tensor_core,
    },
    KernelCandidate { order: LANES, takes: |_| true, most_rows: any_rows, launch: general },
];

/// A cache's format in the names of the fast kernels.
const fn fast_name(format: KvFormat) -> &'static str {
    match format {
        KvFormat::F32 | KvFormat::Bf16 => "",
        KvFormat::Fp8 => "_fp8",
        KvFormat::Int8 => "_int8",
    }
}

/// The type of its elements in the names of the general kernels.
const fn general_name(format: KvFormat) -> &'static str {
    match format {
        KvFormat::F32 => "float",
        KvFormat::Bf16 => "bf16",
        KvFormat::Fp8 => "e4m3",
        KvFormat::Int8 => "int8",
    }
}

/// Its number in the general kernels: as `dtype_code`, or of codes.
const fn cache_code(format: KvFormat) -> usize {
    match format {
        KvFormat::F32 => dtype::F32,
        KvFormat::Bf16 => dtype::BF16,
        KvFormat::Fp8 => CACHE_FP8,
        KvFormat::Int8 => CACHE_INT8,
    }
}

/// Dynamic shared memory of the decode and of the prefill kernel for heads of `d` columns.
fn shared_bytes(format: KvFormat, d: usize, tight: bool) -> [usize; 2] {
    let (row, scales, codes) = (format.row_bytes(d), format.scale_bytes() > 0, format.plain().is_none());
    [decode::shared_bytes(d, row, scales, tight), prefill::shared_bytes(d, row, codes, tight)]
}

/// The decode and the prefill kernel for heads of `d` columns.
fn kernels(format: KvFormat, d: usize, tight: bool) -> [SharedKernel; 2] {
    let ([decode, prefill], name) = (shared_bytes(format, d, tight), fast_name(format));
    [
        SharedKernel::new(format!("attention_decode{name}_d{d}"), decode),
        SharedKernel::new(format!("attention_prefill{name}_d{d}"), prefill),
    ]
}

/// The kernels with dynamic shared memory.
pub(super) fn shared_kernels(tight: bool) -> Vec<SharedKernel> {
    let shapes =
        [KvFormat::Bf16, KvFormat::Fp8, KvFormat::Int8].into_iter().flat_map(|f| [(f, 64), (f, 128)]);
    shapes.flat_map(|(format, d)| kernels(format, d, tight)).collect()
}

/// Rows with few new tokens by the decode kernel and the fold of its chunks, the others by the
/// prefill kernel: which, the work list says.
fn tensor_core(lowering: &Lowering<'_>, a: &PagedAttention) -> Result<Vec<Launch>> {
    let Some(list) = &a.list else { return Ok(Vec::new()) };
    let (spec, facts) = (&a.spec, lowering.modules.facts());
    let (d, kv_heads) = (spec.head_dim, spec.num_kv_heads);
    let operands = |items: Address| {
        let args = Args::new().ptr(a.q.at).ptr(a.cache[0]).ptr(a.cache[1]).ptr(a.y.at).ptr(a.tables);
        let args = args.int(lowering.inputs.layout.max_blocks).ptr(items).ptr(list.counts);
        let args = args.int(spec.num_heads).int(kv_heads).int(a.geometry.block_len);
        args.f32(spec.scale).int(spec.window.unwrap_or(0))
    };
    let (format, [k_scales, v_scales]) = (a.geometry.format, a.scales);
    let [decode, prefill] = kernels(format, d, lowering.modules.target().tight());
    let mut launches = Vec::new();
    if list.decodes {
        let function = lowering.modules.shared_function(&decode)?;
        let at_once = decode::at_once(format.plain().is_none());
        let each = lowering.limits.context.div_ceil(CHUNK) * kv_heads;
        let seqs = Rows { of: RowsOf::Seqs, times: 1 };
        let blocks = Dim::Tiles { rows: seqs, cols: 1, per: 1, each, most: at_once * facts.multiprocessors };
        let args = operands(list.decode).ptr(list.partial[0]).ptr(list.partial[1]).int(list.part_rows);
        // What earlier steps wrote is read ahead of the kernels before this one, by work list and
        // block tables. So these must be there: the first attention of a step starts behind all
        // that came before it, and every later one behind the first.
        let args = args.ptr(k_scales).ptr(v_scales).int(usize::from(!a.first));
        let launch = Launch::new(&function, blocks, args).with_shared(decode.shared);
        launches.push(if a.first { launch } else { launch.early() });
        let args = Args::new()
            .ptr(list.partial[0])
            .ptr(list.partial[1])
            .int(list.part_rows)
            .ptr(a.y.at)
            .ptr(list.decode)
            .ptr(list.first_entry)
            .int(spec.num_heads)
            .int(kv_heads)
            .f32(spec.scale);
        let function = lowering.function(&format!("attention_fold_d{d}"))?;
        let fold = Launch::new(&function, Dim::each(seqs), args).by(Dim::Fixed(kv_heads));
        launches.push(fold.early().only(Extents::chunks));
    }
    let function = lowering.modules.shared_function(&prefill)?;
    let blocks = Dim::SeqTiles { per: list.tile_tokens };
    let args = operands(list.prefill).ptr(k_scales).ptr(v_scales);
    let launch = Launch::new(&function, blocks, args).by(Dim::Fixed(kv_heads));
    launches.push(launch.with_shared(prefill.shared).early().only(|step| step.prefill));
    Ok(launches)
}

fn general(lowering: &Lowering<'_>, a: &PagedAttention) -> Result<Vec<Launch>> {
    let layout = &lowering.inputs.layout;
    let name = format!("paged_attention_general_{}_{}", c_type(a.q.dtype)?, general_name(a.geometry.format));
    let args = Args::new()
        .ptr(lowering.counts())
        .ptr(lowering.inputs.at(layout.row_seq))
        .ptr(lowering.inputs.at(layout.row_kv))
        .ptr(a.tables)
        .int(layout.max_blocks)
        .ptr(a.q.at)
        .ptr(a.cache[0])
        .ptr(a.cache[1])
        .ptr(a.y.at)
        .int(a.spec.num_heads)
        .int(a.spec.num_kv_heads)
        .int(a.spec.head_dim)
        .int(a.geometry.block_len)
        .int(a.spec.window.unwrap_or(0))
        .f32(a.spec.scale)
        .ptr(a.scales[0])
        .ptr(a.scales[1]);
    let heads = Dim::Fixed(a.spec.num_heads);
    Ok(vec![Launch::new(&lowering.function(&name)?, Dim::each(a.q.rows), args).by(heads)])
}

impl Lowering<'_> {
    pub(super) fn rope(&self, x: Operand, spec: &RopeSpec, y: Operand) -> Result<Launch> {
        let half = spec.head_dim / 2;
        let args = Args::new()
            .ptr(self.counts())
            .typed(x)?
            .ptr(self.ropes.table(spec))
            .typed(y)?
            .int(x.cols / spec.head_dim)
            .int(half);
        Ok(Launch::new(&self.function("rope_general")?, Dim::each(x.rows), args))
    }

    pub(super) fn kv_append(&self, k: Operand, v: Operand, kv: KvLayer) -> Result<Launch> {
        let (layout, g) = (&self.inputs.layout, self.kv.geometry_of(kv));
        let ([keys, values], [k_scales, v_scales]) = (self.kv.layer(kv), self.kv.scales(kv));
        let args = Args::new()
            .ptr(self.counts())
            .ptr(self.inputs.at(layout.row_seq))
            .ptr(self.inputs.at(layout.row_kv))
            .ptr(self.inputs.at(layout.tables[kv.group]))
            .int(layout.max_blocks)
            .ptr(k.at)
            .ptr(v.at)
            .int(dtype_code(k.dtype)?)
            .ptr(keys)
            .ptr(values)
            .int(cache_code(g.format))
            .int(g.num_heads)
            .int(g.head_dim)
            .int(g.block_len)
            .ptr(k_scales)
            .ptr(v_scales);
        Ok(Launch::new(&self.function("kv_append_general")?, Dim::each(k.rows), args))
    }

    /// Node `at` as attention of queries q.
    pub(super) fn paged_attention(
        &self,
        at: usize,
        q: Operand,
        spec: &AttentionSpec,
        kv: KvLayer,
        y: Operand,
    ) -> Result<Vec<Chosen>> {
        let shape = PagedAttention {
            q,
            y,
            spec: spec.clone(),
            geometry: self.kv.geometry_of(kv),
            cache: self.kv.layer(kv),
            scales: self.kv.scales(kv),
            tables: self.inputs.at(self.inputs.layout.tables[kv.group]),
            list: self.lists.list(spec, self.limits).filter(|_| attends_fast(spec, self.limits)),
            first: !self.program.nodes[..at].iter().any(|node| attends(&node.op)),
        };
        candidate_launches(self, &TABLE, &shape)
    }

    /// Norms, rotation and append in one kernel, queries where attention then writes its output: a
    /// row's output is written by what has read its queries.
    pub(super) fn attention(
        &self,
        at: usize,
        qkv: Operand,
        (norm, rope): (Option<&QkNorm>, &RopeSpec),
        spec: &AttentionSpec,
        kv: KvLayer,
        y: Operand,
    ) -> Result<Vec<Chosen>> {
        let heads = spec.num_heads + 2 * spec.num_kv_heads;
        let (layout, geometry) = (&self.inputs.layout, self.kv.geometry_of(kv));
        let ([keys, values], [k_scales, v_scales]) = (self.kv.layer(kv), self.kv.scales(kv));
        let name = format!("qk_norm_rope_append{}_d{}", fast_name(geometry.format), spec.head_dim);
        let function = self.function(&name)?;
        let weight = |id: Option<WeightId>| id.map_or(0, |id| self.weights.vector(id).narrow);
        let fused = |span: usize| {
            let args = Args::new()
                .ptr(qkv.at)
                .ptr(weight(norm.map(|norm| norm.q)))
                .ptr(weight(norm.map(|norm| norm.k)))
                // The table of rotations has a line for each row.
                .ptr(0)
                .ptr(self.ropes.table(rope))
                .ptr(self.inputs.at(layout.row_place[kv.group]))
                .ptr(y.at)
                .ptr(keys)
                .ptr(values)
                .rows(qkv.rows)
                .int(spec.num_heads)
                .int(spec.num_kv_heads)
                .int(geometry.block_len)
                .f32(norm.map_or(0.0, |norm| norm.eps))
                .int(span)
                .ptr(k_scales)
                .ptr(v_scales);
            let cols = heads.div_ceil(span);
            let blocks = Dim::Tiles { rows: qkv.rows, cols, per: UNITS, each: 1, most: usize::MAX };
            Launch::new(&function, blocks, args).early()
        };
        let attention = self.paged_attention(at, y, spec, kv, y)?;
        let launches = |span| {
            let rest = attention.iter().flat_map(|chosen| chosen.launches.iter().cloned());
            std::iter::once(fused(span)).chain(rest).collect::<Vec<_>>()
        };
        // One head at a time while that does not fill the device.
        let few = UNITS * 8 * self.modules.facts().multiprocessors / heads;
        let one = Chosen { most_rows: few, order: FUSED, launches: launches(1) };
        Ok(vec![one, Chosen::any(FUSED, launches(4))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_what_the_kernels_say_and_leaves_room_for_the_blocks_at_once() {
        assert_eq!(shared_bytes(KvFormat::Bf16, 128, false), [113_152, 131_072]);
        assert_eq!(shared_bytes(KvFormat::Bf16, 64, true), [39_424, 49_152]);
        assert_eq!(shared_bytes(KvFormat::Fp8, 128, false), [64_000, 114_688]);
        assert_eq!(shared_bytes(KvFormat::Int8, 128, false), [67_584, 116_224]);
        for format in [KvFormat::Fp8, KvFormat::Int8] {
            // Each block takes 1 KB more.
            assert!(3 * (shared_bytes(format, 128, false)[0] + 1024) <= 233_472);
            assert!(shared_bytes(format, 128, true)[1] <= 101_376);
        }
    }
}
