//! The physical KV cache: each layer in segments of blocks that a shader can see, a block `[k|v,
//! head, offset, d]` as [`KvGeometry`] has it.

use std::sync::Arc;

use nvllm_core::{
    BlockCopy, BlockId, ByteCount, CoreError, HostTensor, KvCache, KvGeometry, KvLayer, Limits,
    Result as CoreResult,
};
use wgpu::{Buffer, CommandEncoder};

use crate::adapter::AdapterFacts;
use crate::error::Result;
use crate::gpu::{Gpu, padded};
use crate::shaders::MOST_SEGMENTS;

pub(crate) struct WgpuKv {
    gpu: Arc<Gpu>,
    groups: Vec<Group>,
}

/// The cache of a layer: buffers of `segment_blocks` blocks each, the last of what is left.
struct Group {
    geometry: KvGeometry,
    segment_blocks: usize,
    layers: Vec<Vec<Buffer>>,
    /// One block of one layer: a buffer is not copied to itself.
    between: Buffer,
}

/// Blocks of one segment of pieces of `piece_bytes`, or more where these would be too many.
fn segment_blocks(g: &KvGeometry, piece_bytes: usize) -> usize {
    (piece_bytes / g.layer_block_bytes().max(1))
        .max(g.num_blocks.div_ceil(MOST_SEGMENTS))
        .clamp(1, g.num_blocks.max(1))
}

/// Refuses a cache in more segments than a shader sees.
pub(crate) fn check(facts: &AdapterFacts, kv: &[KvGeometry], limits: &Limits) -> CoreResult<()> {
    for g in kv {
        let bytes = segment_blocks(g, facts.piece_bytes).saturating_mul(g.layer_block_bytes());
        if bytes > facts.max_binding {
            let share = bytes as f64 / facts.max_binding as f64;
            let problem = format!(
                "is {}; a shader of {} sees {MOST_SEGMENTS} pieces of {} of one layer's cache: give at most {}",
                ByteCount(limits.kv_bytes),
                facts.name,
                ByteCount(facts.max_binding),
                ByteCount((limits.kv_bytes as f64 / share) as usize)
            );
            return Err(CoreError::BadLimits { field: "kv_bytes", problem });
        }
    }
    Ok(())
}

/// Bytes beside the cache itself.
pub(crate) fn scratch_bytes(kv: &[KvGeometry]) -> usize {
    kv.iter().map(|g| padded(g.layer_block_bytes())).sum()
}

impl Group {
    fn new(gpu: &Gpu, geometry: KvGeometry) -> Result<Self> {
        let segment_blocks = segment_blocks(&geometry, gpu.facts.piece_bytes);
        let segment = |first: usize| {
            let blocks = segment_blocks.min(geometry.num_blocks - first);
            gpu.storage(blocks * geometry.layer_block_bytes(), "the KV cache")
        };
        let layer = |_| (0..geometry.num_blocks).step_by(segment_blocks).map(segment).collect::<Result<_>>();
        Ok(Self {
            segment_blocks,
            layers: (0..geometry.num_layers).map(layer).collect::<Result<_>>()?,
            between: gpu.storage(geometry.layer_block_bytes(), "the KV cache")?,
            geometry,
        })
    }

    /// Where a block of a layer lies.
    fn place(&self, layer: usize, block: BlockId) -> (&Buffer, usize) {
        let (segment, at) = (block.index() / self.segment_blocks, block.index() % self.segment_blocks);
        (&self.layers[layer][segment], at * self.geometry.layer_block_bytes())
    }

    fn copy(&self, encoder: &mut CommandEncoder, from: BlockId, to: BlockId) {
        let len = self.geometry.layer_block_bytes() as u64;
        for layer in 0..self.geometry.num_layers {
            let ((from, from_at), (to, to_at)) = (self.place(layer, from), self.place(layer, to));
            if from == to {
                encoder.copy_buffer_to_buffer(from, from_at as u64, &self.between, 0, len);
                encoder.copy_buffer_to_buffer(&self.between, 0, to, to_at as u64, len);
            } else {
                encoder.copy_buffer_to_buffer(from, from_at as u64, to, to_at as u64, len);
            }
        }
    }
}

impl WgpuKv {
    pub(crate) fn new(gpu: &Arc<Gpu>, geometries: &[KvGeometry]) -> Result<Self> {
        let groups = geometries.iter().map(|&geometry| Group::new(gpu, geometry)).collect::<Result<_>>()?;
        Ok(Self { gpu: Arc::clone(gpu), groups })
    }

    pub(crate) fn geometry_of(&self, layer: KvLayer) -> KvGeometry {
        self.groups[layer.group].geometry
    }

    /// The segments of a layer, and blocks in one.
    pub(crate) fn layer(&self, layer: KvLayer) -> (&[Buffer], usize) {
        let group = &self.groups[layer.group];
        (&group.layers[layer.layer], group.segment_blocks)
    }

    /// The copies of a step, which have been checked.
    pub(crate) fn copies(&self, encoder: &mut CommandEncoder, copies: &[BlockCopy]) {
        copies.iter().for_each(|copy| self.groups[copy.group].copy(encoder, copy.from, copy.to));
    }

    fn check(&self, group: usize, block: BlockId) -> CoreResult<&Group> {
        let found = &self.groups[group];
        found.geometry.check_id(block)?;
        Ok(found)
    }
}

impl KvCache for WgpuKv {
    fn geometry(&self, group: usize) -> KvGeometry {
        self.groups[group].geometry
    }

    fn bytes(&self) -> usize {
        let segments = self.groups.iter().flat_map(|group| &group.layers).flatten();
        segments.map(|buffer| buffer.size() as usize).sum()
    }

    fn read_block(&self, group: usize, block: BlockId) -> CoreResult<HostTensor> {
        let group = self.check(group, block)?;
        let len = group.geometry.layer_block_bytes();
        let places = (0..group.geometry.num_layers).map(|layer| group.place(layer, block));
        let parts: Vec<_> = places.map(|(buffer, at)| (buffer, at, len)).collect();
        let bytes = self.gpu.read_now(&parts)?;
        Ok(HostTensor::from_bytes(group.geometry.block_shape(), group.geometry.block_dtype(), bytes))
    }

    fn write_block(&mut self, group: usize, block: BlockId, data: &HostTensor) -> CoreResult<()> {
        let group = self.check(group, block)?;
        group.geometry.check_block(data)?;
        for (layer, bytes) in data.bytes().chunks(group.geometry.layer_block_bytes()).enumerate() {
            let (buffer, at) = group.place(layer, block);
            self.gpu.write(buffer, at, bytes);
        }
        Ok(self.gpu.check()?)
    }

    fn copy_blocks(&mut self, group: usize, pairs: &[(BlockId, BlockId)]) -> CoreResult<()> {
        let mut encoder = self.gpu.encoder();
        for &(from, to) in pairs {
            self.check(group, from)?;
            let group = self.check(group, to)?;
            if from != to {
                group.copy(&mut encoder, from, to);
            }
        }
        self.gpu.submit(encoder)?;
        Ok(())
    }
}
