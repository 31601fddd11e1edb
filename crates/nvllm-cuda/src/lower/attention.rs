//! Kernels of `rope`, `kv_append` and `paged_attention`.

use nvllm_core::{AttentionSpec, KvGeometry, KvLayer, Limits, OrderId, RopeSpec};

use super::choice::{Way, choose, ways};
use super::{LANES, Lowering, Operand, c_type, dtype_code};
use crate::error::Result;
use crate::launch::{Args, Dim, Launch};
use crate::memory::Address;

/// Columns of the widest head, as the general kernel takes them.
pub(crate) const MAX_HEAD_DIM: usize = 512;

/// Attention over one layer's cache.
pub(crate) struct PagedAttention {
    pub q: Operand,
    pub y: Operand,
    pub spec: AttentionSpec,
    pub geometry: KvGeometry,
    /// Keys and values.
    pub cache: [Address; 2],
    /// Block tables of the group.
    pub tables: Address,
}

/// Best first.
static TABLE: [Way<PagedAttention>; 1] =
    [Way { order: LANES, takes: |_| true, most_rows: usize::MAX, launch: general }];

/// The order of a model with heads of 128 columns.
pub(super) fn order(limits: &Limits) -> OrderId {
    let operand =
        Operand { at: 0, dtype: limits.activations.dtype(), rows: nvllm_core::Rows::TOKENS, cols: 128 };
    let spec = AttentionSpec { num_heads: 1, num_kv_heads: 1, head_dim: 128, scale: 1.0, window: None };
    let geometry = KvGeometry {
        num_layers: 1,
        num_heads: 1,
        head_dim: 128,
        block_len: limits.block_len,
        num_blocks: 2,
        dtype: limits.kv_dtype,
    };
    let shape = PagedAttention { q: operand, y: operand, spec, geometry, cache: [0; 2], tables: 0 };
    choose(&TABLE, &shape, limits.numerics).first().map_or(LANES, |way| way.order)
}

fn general(lowering: &Lowering<'_>, a: &PagedAttention) -> Result<Vec<Launch>> {
    let layout = &lowering.inputs.layout;
    let name = format!("paged_attention_general_{}_{}", c_type(a.q.dtype), c_type(a.geometry.dtype));
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
        .f32(a.spec.scale);
    let heads = Dim::Fixed(a.spec.num_heads);
    Ok(vec![Launch::new(lowering.function(&name)?, Dim::each(a.q.rows), 128, args).by(heads)])
}

impl Lowering<'_> {
    pub(super) fn rope(&self, x: Operand, spec: &RopeSpec, y: Operand) -> Result<Launch> {
        let half = spec.head_dim / 2;
        let args = Args::new()
            .ptr(self.counts())
            .typed(x)
            .ptr(self.ropes.table(spec))
            .typed(y)
            .int(x.cols / spec.head_dim)
            .int(half);
        Ok(Launch::new(self.function("rope_general")?, Dim::each(x.rows), 256, args))
    }

    pub(super) fn kv_append(&self, k: Operand, v: Operand, kv: KvLayer) -> Result<Launch> {
        let (layout, g) = (&self.inputs.layout, self.kv.geometry_of(kv));
        let [keys, values] = self.kv.layer(kv);
        let args = Args::new()
            .ptr(self.counts())
            .ptr(self.inputs.at(layout.row_seq))
            .ptr(self.inputs.at(layout.row_kv))
            .ptr(self.inputs.at(layout.tables[kv.group]))
            .int(layout.max_blocks)
            .ptr(k.at)
            .ptr(v.at)
            .int(dtype_code(k.dtype))
            .ptr(keys)
            .ptr(values)
            .int(dtype_code(g.dtype))
            .int(g.num_heads)
            .int(g.head_dim)
            .int(g.block_len);
        Ok(Launch::new(self.function("kv_append_general")?, Dim::each(k.rows), 256, args))
    }

    pub(super) fn paged_attention(
        &self,
        q: Operand,
        spec: &AttentionSpec,
        kv: KvLayer,
        y: Operand,
    ) -> Result<Vec<(usize, Vec<Launch>)>> {
        let shape = PagedAttention {
            q,
            y,
            spec: spec.clone(),
            geometry: self.kv.geometry_of(kv),
            cache: self.kv.layer(kv),
            tables: self.inputs.at(self.inputs.layout.tables[kv.group]),
        };
        ways(self, &TABLE, &shape)
    }
}
