//! A paged KV cache: the bytes of each group's blocks, in the shape in which blocks are handed out.

use nvllm_core::{BlockId, CoreError, HostTensor, KvCache, KvGeometry, KvLayer, Result};

/// Where a key or a value of one head lies.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub layer: KvLayer,
    pub block: BlockId,
    /// 0 for keys, 1 for values.
    pub part: usize,
    pub head: usize,
    /// Position within the block.
    pub offset: usize,
}

pub(crate) struct ToyKv {
    geometries: Vec<KvGeometry>,
    /// By group, `[block, layer, part, head, offset, column]`.
    groups: Vec<Vec<u8>>,
}

impl ToyKv {
    pub(crate) fn new(geometries: Vec<KvGeometry>) -> Result<Self> {
        let group = |geometry: &KvGeometry| {
            let (mut group, bytes) = (Vec::new(), geometry.bytes());
            group
                .try_reserve_exact(bytes)
                .map_err(|_| CoreError::OutOfMemory { bytes, what: "the KV cache" })?;
            group.resize(bytes, 0);
            Ok(group)
        };
        Ok(Self { groups: geometries.iter().map(group).collect::<Result<_>>()?, geometries })
    }

    pub(crate) fn geometries(&self) -> &[KvGeometry] {
        &self.geometries
    }

    /// Index of the first element at a place.
    fn at(&self, place: Place) -> usize {
        let g = &self.geometries[place.layer.group];
        let plane = (place.block.index() * g.num_layers + place.layer.layer) * 2 + place.part;
        ((plane * g.num_heads + place.head) * g.block_len + place.offset) * g.head_dim
    }

    pub(crate) fn load(&self, place: Place) -> Vec<f32> {
        let (g, at) = (&self.geometries[place.layer.group], self.at(place));
        (at..at + g.head_dim).map(|i| g.block_dtype().read(&self.groups[place.layer.group], i)).collect()
    }

    /// Rounds to the cache's dtype.
    pub(crate) fn store(&mut self, place: Place, x: &[f32]) {
        let (dtype, at) = (self.geometries[place.layer.group].block_dtype(), self.at(place));
        let mut bytes = Vec::with_capacity(x.len() * dtype.size());
        x.iter().for_each(|&x| dtype.write(x, &mut bytes));
        self.groups[place.layer.group][at * dtype.size()..][..bytes.len()].copy_from_slice(&bytes);
    }

    fn range(&self, group: usize, block: BlockId) -> Result<std::ops::Range<usize>> {
        let (num, bytes) = (self.geometries[group].num_blocks, self.geometries[group].block_bytes());
        if block.index() >= num {
            let problem = format!("has {num} blocks; block {block} is not one of them");
            return Err(CoreError::BadTensor { name: format!("KV group {group}"), problem });
        }
        Ok(block.index() * bytes..(block.index() + 1) * bytes)
    }
}

impl KvCache for ToyKv {
    fn geometry(&self, group: usize) -> KvGeometry {
        self.geometries[group]
    }

    fn bytes(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }

    fn read_block(&self, group: usize, block: BlockId) -> Result<HostTensor> {
        let (g, range) = (&self.geometries[group], self.range(group, block)?);
        Ok(HostTensor::from_bytes(g.block_shape(), g.block_dtype(), self.groups[group][range].to_vec()))
    }

    fn write_block(&mut self, group: usize, block: BlockId, data: &HostTensor) -> Result<()> {
        self.geometries[group].check_block(data)?;
        let range = self.range(group, block)?;
        self.groups[group][range].copy_from_slice(data.bytes());
        Ok(())
    }

    fn copy_blocks(&mut self, group: usize, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        for &(from, to) in pairs {
            let (from, to) = (self.range(group, from)?, self.range(group, to)?);
            self.groups[group].copy_within(from, to.start);
        }
        Ok(())
    }
}
