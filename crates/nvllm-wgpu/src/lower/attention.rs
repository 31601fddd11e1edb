//! The KV cache: storing keys and values, and attention over them.

use nvllm_core::program::{Node, QkNorm};
use nvllm_core::{AttentionSpec, KvGeometry, KvLayer, OrderId, RopeSpec, ValueId, WeightId};

use super::lowering::ANY;
use super::{Dim, Dispatch, Lowering, Stage};
use crate::error::Result;
use crate::gpu::Part;
use crate::{shaders, split};

/// Most columns of a head.
pub(crate) const MOST_HEAD_DIM: usize = 512;

const ORDER: OrderId = OrderId("chunks of 256 positions");

/// Attention over a cache.
#[derive(Clone, Copy)]
struct Attended<'a> {
    spec: &'a AttentionSpec,
    layer: KvLayer,
    out: ValueId,
}

/// Positions that a query sees; 0: all.
fn window(spec: &AttentionSpec) -> usize {
    spec.window.map_or(0, |window| window.clamp(1, i32::MAX as usize))
}

/// Bytes of a workgroup's memory that paged_attention/decode.wgsl takes with the rest.
const fn decode_bytes(g: &KvGeometry) -> usize {
    let (query, heads, new) = (4 * g.head_dim, 16 * g.head_dim, 2 * g.format.row_bytes(g.head_dim));
    let (positions, values, teams) = (3 * 4 * split::CHUNK, 8 << 10, 2 * 4 * 256);
    query + heads + new + positions + values + teams + 256
}

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
        let attended = Attended { spec, layer, out: node.outputs[0] };
        let launches = self.over_cache(&attended, Some(node.inputs[0]), 1)?;
        Ok(Stage::new(ORDER, launches))
    }

    /// The parameters of paged_attention/general.wgsl.
    fn attention_params(&self, of: &Attended<'_>, eps: f32) -> Vec<u32> {
        let Attended { spec, layer, .. } = *of;
        let g = self.kv.geometry_of(layer);
        let layout = &self.inputs.layout;
        let params = [
            spec.num_heads,
            spec.num_heads / spec.num_kv_heads,
            spec.num_kv_heads,
            spec.scale.to_bits() as usize,
            window(spec),
            g.block_len,
            layout.row_seq / 4,
            layout.row_kv / 4,
            layout.tables[layer.group] / 4,
            layout.max_blocks,
            self.kv.layer(layer).1,
            split::chunks(self.limits),
            eps.to_bits() as usize,
        ];
        params.map(|word| word as u32).to_vec()
    }

    /// Attention of the queries `q`, or of those that lie where its output goes, for steps of at
    /// least so many rows.
    fn over_cache(&self, of: &Attended<'_>, q: Option<ValueId>, least: usize) -> Result<Vec<Dispatch>> {
        let Attended { spec, layer, out } = *of;
        let g = self.kv.geometry_of(layer);
        let segments = self.kv.layer(layer).0;
        let kernels = if q.is_none() { &shaders::ATTENTION_IN_PLACE } else { &shaders::PAGED_ATTENTION };
        let rows = self.rows(out);
        let launch = |is_split: bool| {
            let constants = [
                shaders::round(self.rounds(out)),
                shaders::kv(g.format, g.head_dim),
                shaders::cache_read(g.format, segments.len(), q.is_none() && !is_split),
                shaders::split(is_split),
            ];
            // A split one makes parts: its queries lie in a value of their own, which is the output
            // that the fold writes.
            let queries = q.or_else(|| is_split.then_some(out)).map(|q| self.value(q));
            let to = if is_split { Part::whole(&self.inputs.parts) } else { self.value(out) };
            let fixed = [Part::whole(&self.inputs.buffer), to];
            let parts: Vec<_> =
                fixed.into_iter().chain(segments.iter().map(Part::whole)).chain(queries).collect();
            let heads = if is_split { Dim::Chunks(spec.num_heads) } else { Dim::Fixed(spec.num_heads) };
            let kernels = if is_split { &shaders::PAGED_ATTENTION } else { kernels };
            let params = self.attention_params(of, 0.0);
            let kernel = &kernels[segments.len() - 1];
            self.launch(kernel, &constants.join("\n"), &params, &parts, [heads, Dim::rows(rows)])
        };
        let most = split::rows(spec, self.limits);
        if most < least {
            return Ok(vec![launch(false)?.only(rows, least..=usize::MAX)]);
        }
        Ok(vec![
            launch(false)?.only(rows, least..=most).at(..=split::CHUNK),
            launch(true)?.only(rows, least..=most).at(split::CHUNK + 1..),
            self.fold(of)?.only(rows, least..=most).at(split::CHUNK + 1..),
            launch(false)?.only(rows, most + 1..=usize::MAX),
        ])
    }

    /// Puts the chunks of rows together.
    fn fold(&self, of: &Attended<'_>) -> Result<Dispatch> {
        let Attended { spec, layer, out } = *of;
        let g = self.kv.geometry_of(layer);
        let params =
            [spec.num_heads, window(spec), self.inputs.layout.row_kv / 4, split::chunks(self.limits)];
        let constants = [shaders::round(self.rounds(out)), shaders::kv_width(g.head_dim)];
        let parts = [Part::whole(&self.inputs.buffer), Part::whole(&self.inputs.parts), self.value(out)];
        let grid = [Dim::Fixed(spec.num_heads), Dim::rows(self.rows(out))];
        let params = params.map(|word| word as u32);
        self.launch(&shaders::ATTENTION_FOLD, &constants.join("\n"), &params, &parts, grid)
    }

    /// Heads are normed and turned on their way to the output and to the cache; the queries then
    /// lie where the output goes. For a step of one token all of that is inside.
    pub(super) fn attention(
        &self,
        node: &Node,
        norm: Option<QkNorm>,
        rope: &RopeSpec,
        spec: &AttentionSpec,
        layer: KvLayer,
    ) -> Result<Stage> {
        let (qkv, out) = (node.inputs[0], node.outputs[0]);
        let attended = Attended { spec, layer, out };
        let g = self.kv.geometry_of(layer);
        let (segments, segment_blocks) = self.kv.layer(layer);
        let table = Part::whole(self.inputs.rotations(rope));
        let weight = |of: fn(QkNorm) -> WeightId| {
            norm.map_or(table, |norm| Part::whole(self.weights.get(of(norm)).vector()))
        };
        let made_of = [self.value(qkv), table, weight(|norm| norm.q), weight(|norm| norm.k)];
        let eps = norm.map_or(0.0, |norm| norm.eps);
        let is_inside = decode_bytes(&g) <= self.gpu.facts.workgroup_bytes;
        let least = if is_inside { 2 } else { 1 };
        let mut launches = Vec::new();
        if is_inside {
            launches.extend(self.decode(&attended, norm.is_some(), eps, &made_of)?);
        }
        let params = [
            spec.num_heads,
            spec.num_kv_heads,
            eps.to_bits() as usize,
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
        let [qkv, table, q_norm, k_norm] = made_of;
        let fixed = [Part::whole(&self.inputs.buffer), table, qkv, q_norm, k_norm, self.value(out)];
        let parts: Vec<_> = fixed.into_iter().chain(segments.iter().map(Part::whole)).collect();
        let rows = self.rows(out);
        let grid = [Dim::Fixed(spec.num_heads + 2 * spec.num_kv_heads), Dim::rows(rows)];
        let params = params.map(|word| word as u32);
        let kernel = &shaders::QK_NORM_ROPE_APPEND[segments.len() - 1];
        let front = self.launch(kernel, &constants.join("\n"), &params, &parts, grid)?;
        launches.push(front.only(rows, least..=usize::MAX));
        launches.extend(self.over_cache(&attended, None, least)?);
        Ok(Stage::new(ORDER, launches))
    }

    /// Attention for a step of one token, with its front inside.
    fn decode(
        &self,
        of: &Attended<'_>,
        normed: bool,
        eps: f32,
        made_of: &[Part<'_>; 4],
    ) -> Result<Vec<Dispatch>> {
        let Attended { spec, layer, out } = *of;
        let g = self.kv.geometry_of(layer);
        let segments = self.kv.layer(layer).0;
        let rows = self.rows(out);
        let launch = |is_split: bool| {
            let constants = [
                shaders::round(self.rounds(out)),
                shaders::kv(g.format, g.head_dim),
                shaders::norm(normed),
                shaders::cache_decode(g.format, segments.len()),
                shaders::split(is_split),
            ];
            let to = if is_split { Part::whole(&self.inputs.parts) } else { self.value(out) };
            let fixed = [Part::whole(&self.inputs.buffer), to];
            let parts = fixed.into_iter().chain(segments.iter().map(Part::whole)).chain(*made_of);
            let parts: Vec<_> = parts.collect();
            let heads = if is_split { Dim::Chunks(spec.num_heads) } else { Dim::Fixed(spec.num_heads) };
            let params = self.attention_params(of, eps);
            let kernel = &shaders::ATTENTION_DECODE[segments.len() - 1];
            self.launch(kernel, &constants.join("\n"), &params, &parts, [heads, Dim::rows(rows)])
        };
        if split::rows(spec, self.limits) == 0 {
            return Ok(vec![launch(false)?.only(rows, 1..=1)]);
        }
        Ok(vec![
            launch(false)?.only(rows, 1..=1).at(..=split::CHUNK),
            launch(true)?.only(rows, 1..=1).at(split::CHUNK + 1..),
            self.fold(of)?.only(rows, 1..=1).at(split::CHUNK + 1..),
        ])
    }
}
