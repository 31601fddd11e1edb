//! The KV cache: storing keys and values, and attention over them.

use nvllm_core::program::{Node, QkNorm};
use nvllm_core::{AttentionSpec, KvLayer, OrderId, RopeSpec, ValueId, WeightId};

use super::lowering::ANY;
use super::{Dim, Dispatch, Lowering, Stage};
use crate::error::Result;
use crate::gpu::Part;
use crate::shaders;

/// Most columns of a head.
pub(crate) const MOST_HEAD_DIM: usize = 512;

const ORDER: OrderId = OrderId("chunks of 256 positions");

impl Lowering<'_> {
    pub(super) fn kv_append(&self, node: &Node, layer: KvLayer) -> Result<Stage> {
        let (k, v) = (node.inputs[0], node.inputs[1]);
        let g = self.kv.geometry_of(layer);
        let (segments, segment_blocks) = self.kv.layer(layer);
        let places = self.inputs.layout.row_place[layer.group] / 4;
        let params = [g.num_heads, g.block_len, places, segment_blocks].map(|word| word as u32);
        let fixed = [Part::whole(&self.inputs.buffer), self.value(k), self.value(v)];
        let parts: Vec<_> = fixed.into_iter().chain(segments.iter().map(Part::whole)).collect();
        let constants = [
            shaders::round(false),
            shaders::kv(g.format, g.head_dim),
            shaders::cache_write(segments.len(), shaders::KV_CACHE),
        ];
        let grid = [Dim::Fixed(2 * g.num_heads), Dim::rows(self.rows(k))];
        let kernel = &shaders::KV_APPEND[segments.len() - 1];
        let launch = self.launch(kernel, &constants.join("\n"), &params, &parts, grid)?;
        Ok(Stage::new(ANY, vec![launch]))
    }

    pub(super) fn paged_attention(&self, node: &Node, spec: &AttentionSpec, layer: KvLayer) -> Result<Stage> {
        let launches = vec![self.over_cache(spec, layer, Some(node.inputs[0]), node.outputs[0])?];
        Ok(Stage::new(ORDER, launches))
    }

    /// Attention of the queries `q`, or of those that lie where its output goes.
    fn over_cache(
        &self,
        spec: &AttentionSpec,
        layer: KvLayer,
        q: Option<ValueId>,
        out: ValueId,
    ) -> Result<Dispatch> {
        let g = self.kv.geometry_of(layer);
        let (segments, segment_blocks) = self.kv.layer(layer);
        let layout = &self.inputs.layout;
        let params = [
            spec.num_heads,
            spec.num_heads / spec.num_kv_heads,
            spec.num_kv_heads,
            spec.scale.to_bits() as usize,
            spec.window.map_or(0, |window| window.clamp(1, i32::MAX as usize)),
            g.block_len,
            layout.row_seq / 4,
            layout.row_kv / 4,
            layout.tables[layer.group] / 4,
            layout.max_blocks,
            segment_blocks,
        ];
        let params = params.map(|word| word as u32);
        let constants = [
            shaders::round(self.rounds(out)),
            shaders::kv(g.format, g.head_dim),
            shaders::cache_read(g.format, segments.len(), q.is_none()),
        ];
        let fixed = [Part::whole(&self.inputs.buffer), self.value(out)];
        let queries = q.map(|q| self.value(q));
        let parts: Vec<_> =
            fixed.into_iter().chain(segments.iter().map(Part::whole)).chain(queries).collect();
        let grid = [Dim::Fixed(spec.num_heads), Dim::rows(self.rows(out))];
        let kernels = if q.is_none() { &shaders::ATTENTION_IN_PLACE } else { &shaders::PAGED_ATTENTION };
        self.launch(&kernels[segments.len() - 1], &constants.join("\n"), &params, &parts, grid)
    }

    /// Heads are normed and turned on their way to the output and to the cache; the queries then
    /// lie where the output goes.
    pub(super) fn attention(
        &self,
        node: &Node,
        norm: Option<QkNorm>,
        rope: &RopeSpec,
        spec: &AttentionSpec,
        layer: KvLayer,
    ) -> Result<Stage> {
        let (qkv, out) = (node.inputs[0], node.outputs[0]);
        let g = self.kv.geometry_of(layer);
        let (segments, segment_blocks) = self.kv.layer(layer);
        let params = [
            spec.num_heads,
            spec.num_kv_heads,
            norm.map_or(0, |norm| norm.eps.to_bits() as usize),
            g.block_len,
            self.inputs.layout.row_place[layer.group] / 4,
            segment_blocks,
        ];
        let constants = [
            shaders::round(self.rounds(out)),
            shaders::kv(g.format, g.head_dim),
            shaders::norm(norm.is_some()),
            shaders::cache_write(segments.len(), shaders::QK_CACHE),
        ];
        let table = Part::whole(self.inputs.rotations(rope));
        let weight = |of: fn(QkNorm) -> WeightId| {
            norm.map_or(table, |norm| Part::whole(self.weights.get(of(norm)).vector()))
        };
        let fixed = [
            Part::whole(&self.inputs.buffer),
            table,
            self.value(qkv),
            weight(|norm| norm.q),
            weight(|norm| norm.k),
            self.value(out),
        ];
        let parts: Vec<_> = fixed.into_iter().chain(segments.iter().map(Part::whole)).collect();
        let grid = [Dim::Fixed(spec.num_heads + 2 * spec.num_kv_heads), Dim::rows(self.rows(out))];
        let params = params.map(|word| word as u32);
        let kernel = &shaders::QK_NORM_ROPE_APPEND[segments.len() - 1];
        let front = self.launch(kernel, &constants.join("\n"), &params, &parts, grid)?;
        Ok(Stage::new(ORDER, vec![front, self.over_cache(spec, layer, None, out)?]))
    }
}
