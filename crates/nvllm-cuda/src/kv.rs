//! The physical KV cache: for each layer its keys and its values, each `[num_blocks, heads,
//! block_len, head_dim]`.

use std::sync::Arc;

use nvllm_core::{
    BlockCopy, BlockId, CoreError, HostTensor, KvCache, KvGeometry, KvLayer, Result as CoreResult,
};

use crate::device::Device;
use crate::error::Result;
use crate::memory::{Address, Buffer};

pub(crate) struct CudaKv {
    device: Arc<Device>,
    groups: Vec<Group>,
}

struct Group {
    geometry: KvGeometry,
    /// Keys of layer 0, its values, keys of layer 1, ..
    buffer: Buffer,
}

impl Group {
    /// Bytes of one block of one layer's keys, or of its values.
    const fn part(&self) -> usize {
        self.geometry.layer_block_bytes() / 2
    }

    /// Offset of a block in part `part` (twice the layer, plus 1 for values).
    const fn at(&self, part: usize, block: BlockId) -> usize {
        (part * self.geometry.num_blocks + block.index()) * self.part()
    }

    const fn num_parts(&self) -> usize {
        2 * self.geometry.num_layers
    }

    /// Copies a block, in stream order and without waiting for it.
    fn copy(&self, from: BlockId, to: BlockId) -> Result<()> {
        (0..self.num_parts()).try_for_each(|part| {
            let (to, from) = (self.at(part, to), self.at(part, from));
            self.buffer.copy(to, &self.buffer, from, self.part())
        })
    }
}

impl CudaKv {
    pub(crate) fn new(device: &Arc<Device>, geometries: &[KvGeometry]) -> Result<Self> {
        let group = |&geometry: &KvGeometry| {
            let buffer = Buffer::zeroed(device, geometry.num_blocks * geometry.block_bytes())?;
            Ok(Group { geometry, buffer })
        };
        let groups = geometries.iter().map(group).collect::<Result<_>>()?;
        Ok(Self { device: Arc::clone(device), groups })
    }

    pub(crate) fn geometry_of(&self, layer: KvLayer) -> KvGeometry {
        self.groups[layer.group].geometry
    }

    /// Keys and values of a layer.
    pub(crate) fn layer(&self, layer: KvLayer) -> [Address; 2] {
        let group = &self.groups[layer.group];
        [0, 1].map(|part| group.buffer.at(group.at(2 * layer.layer + part, BlockId::NULL)))
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.iter().map(|group| group.buffer.len()).sum()
    }

    /// Starts the copies of a step, which have been checked.
    pub(crate) fn start_copies(&self, copies: &[BlockCopy]) -> Result<()> {
        copies.iter().try_for_each(|copy| self.groups[copy.group].copy(copy.from, copy.to))
    }

    fn check(&self, group: usize, block: BlockId) -> CoreResult<&Group> {
        let found = &self.groups[group];
        if block.index() >= found.geometry.num_blocks {
            let problem = format!("block {block} of {} does not exist", found.geometry.num_blocks);
            return Err(CoreError::BadLimits { field: "kv_bytes", problem });
        }
        Ok(found)
    }
}

impl KvCache for CudaKv {
    fn geometry(&self, group: usize) -> KvGeometry {
        self.groups[group].geometry
    }

    fn bytes(&self) -> usize {
        self.len()
    }

    fn read_block(&self, group: usize, block: BlockId) -> CoreResult<HostTensor> {
        let group = self.check(group, block)?;
        let mut bytes = vec![0; group.geometry.block_bytes()];
        let parts = bytes.chunks_mut(group.part()).enumerate();
        let parts = parts.map(|(part, bytes)| (group.at(part, block), bytes));
        group.buffer.read_all(&self.device.stream, parts)?;
        Ok(HostTensor::from_bytes(group.geometry.block_shape(), group.geometry.block_dtype(), bytes))
    }

    fn write_block(&mut self, group: usize, block: BlockId, data: &HostTensor) -> CoreResult<()> {
        let group = self.check(group, block)?;
        group.geometry.check_block(data)?;
        let parts = data.bytes().chunks(group.part()).enumerate();
        Ok(group.buffer.write_all(parts.map(|(part, bytes)| (group.at(part, block), bytes)))?)
    }

    fn copy_blocks(&mut self, group: usize, pairs: &[(BlockId, BlockId)]) -> CoreResult<()> {
        for &(from, to) in pairs {
            self.check(group, from)?;
            let group = self.check(group, to)?;
            if from != to {
                group.copy(from, to)?;
            }
        }
        Ok(())
    }
}
