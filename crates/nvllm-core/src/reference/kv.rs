//! The reference's KV cache: one vector of f32 a group, already rounded to the cache's dtype.

use crate::{BlockId, CoreError, HostTensor, KvCache, KvGeometry, KvLayer, Result, Tensor};

pub(super) struct ReferenceKv {
    geometries: Vec<KvGeometry>,
    /// By group: `[block, layer, k|v, head, offset, column]`.
    data: Vec<Vec<f32>>,
}

impl ReferenceKv {
    pub(super) fn new(geometries: Vec<KvGeometry>) -> Result<Self> {
        let group = |g: &KvGeometry| {
            let (mut data, len) = (Vec::new(), g.num_blocks * g.num_layers * g.layer_block_len());
            data.try_reserve_exact(len)
                .map_err(|_| CoreError::OutOfMemory { bytes: Self::bytes_for(g), what: "the KV cache" })?;
            // Not zero: a read of a position that was never written must show.
            data.resize(len, f32::NAN);
            Ok(data)
        };
        let data = geometries.iter().map(group).collect::<Result<_>>()?;
        Ok(Self { geometries, data })
    }

    /// Bytes of a group: f32, whatever the dtype that elements are rounded to.
    pub(super) fn bytes_for(g: &KvGeometry) -> usize {
        (g.bytes() / g.dtype.size()).saturating_mul(size_of::<f32>())
    }

    pub(super) fn geometries(&self) -> &[KvGeometry] {
        &self.geometries
    }

    /// Where one head's key (`part` 0) or value (1) at an offset of a block begins.
    fn at(&self, kv: KvLayer, block: BlockId, part: usize, head: usize, offset: usize) -> usize {
        let g = &self.geometries[kv.group];
        let head_at = ((block.index() * g.num_layers + kv.layer) * 2 + part) * g.num_heads + head;
        (head_at * g.block_len + offset) * g.head_dim
    }

    pub(super) fn head(
        &self,
        kv: KvLayer,
        block: BlockId,
        part: usize,
        head: usize,
        offset: usize,
    ) -> &[f32] {
        let at = self.at(kv, block, part, head, offset);
        &self.data[kv.group][at..at + self.geometries[kv.group].head_dim]
    }

    pub(super) fn store(
        &mut self,
        kv: KvLayer,
        block: BlockId,
        part: usize,
        head: usize,
        offset: usize,
        x: &[f32],
    ) {
        let at = self.at(kv, block, part, head, offset);
        let dtype = self.geometries[kv.group].dtype;
        for (to, &from) in self.data[kv.group][at..at + x.len()].iter_mut().zip(x) {
            *to = dtype.round(from);
        }
    }

    fn block(&self, group: usize, block: BlockId) -> Result<std::ops::Range<usize>> {
        let g = self.geometries[group];
        if block.index() >= g.num_blocks {
            let problem = format!("block {block} of {} does not exist", g.num_blocks);
            return Err(CoreError::BadLimits { field: "kv_bytes", problem });
        }
        let len = g.num_layers * g.layer_block_len();
        Ok(block.index() * len..(block.index() + 1) * len)
    }
}

impl KvCache for ReferenceKv {
    fn geometry(&self, group: usize) -> KvGeometry {
        self.geometries[group]
    }

    fn bytes(&self) -> usize {
        self.data.iter().map(|d| d.len() * size_of::<f32>()).sum()
    }

    fn read_block(&self, group: usize, block: BlockId) -> Result<HostTensor> {
        let g = self.geometries[group];
        Ok(HostTensor::from_f32(g.block_shape(), g.dtype, &self.data[group][self.block(group, block)?]))
    }

    fn write_block(&mut self, group: usize, block: BlockId, data: &HostTensor) -> Result<()> {
        let g = self.geometries[group];
        if data.shape() != g.block_shape() || data.dtype() != g.dtype {
            let problem = format!(
                "a block of {:?} {} was given, {:?} {} is needed",
                data.shape(),
                data.dtype(),
                g.block_shape(),
                g.dtype
            );
            return Err(CoreError::BadTensor { name: "KV block".into(), problem });
        }
        let range = self.block(group, block)?;
        self.data[group][range].copy_from_slice(&data.to_f32());
        Ok(())
    }

    fn copy_blocks(&mut self, group: usize, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        for &(from, to) in pairs {
            let (from, to) = (self.block(group, from)?, self.block(group, to)?);
            self.data[group].copy_within(from, to.start);
        }
        Ok(())
    }
}
