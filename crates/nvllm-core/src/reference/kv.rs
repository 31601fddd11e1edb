//! The reference's KV cache: the bytes of each block, and beside them the values that they stand
//! for.

use crate::{BlockId, CoreError, HostTensor, KvCache, KvGeometry, KvLayer, Result};

pub(super) struct ReferenceKv {
    groups: Vec<Group>,
    geometries: Vec<KvGeometry>,
}

struct Group {
    /// `[block, layer]`, each as `kv_format` says.
    bytes: Vec<u8>,
    /// `[block, layer, k|v, head, offset, column]`.
    values: Vec<f32>,
}

impl ReferenceKv {
    pub(super) fn new(geometries: Vec<KvGeometry>) -> Result<Self> {
        let group = |g: &KvGeometry| {
            let len = g.num_layers * g.layer_block_len();
            let (mut bytes, mut values) = (Vec::new(), Vec::new());
            let failed = |_| CoreError::OutOfMemory { bytes: Self::bytes_for(g), what: "the KV cache" };
            bytes.try_reserve_exact(g.bytes()).map_err(failed)?;
            values.try_reserve_exact(g.num_blocks * len).map_err(failed)?;
            // Not zero: a read of a position that was never written must show.
            let nothing = g.encode_block(&vec![f32::NAN; len]);
            (0..g.num_blocks).for_each(|_| bytes.extend_from_slice(nothing.bytes()));
            values.resize(g.num_blocks * len, f32::NAN);
            Ok(Group { bytes, values })
        };
        Ok(Self { groups: geometries.iter().map(group).collect::<Result<_>>()?, geometries })
    }

    /// Bytes of a group: as it is stored, and its values in f32.
    pub(super) fn bytes_for(g: &KvGeometry) -> usize {
        let values = g.num_blocks.saturating_mul(g.num_layers * g.layer_block_len());
        g.bytes().saturating_add(values.saturating_mul(size_of::<f32>()))
    }

    pub(super) fn geometries(&self) -> &[KvGeometry] {
        &self.geometries
    }

    /// The place of a block of one layer, and of the row of one head's key (`part` 0) or value (1)
    /// at an offset in it.
    fn place(&self, kv: KvLayer, block: BlockId, part: usize, head: usize, offset: usize) -> [usize; 2] {
        let g = &self.geometries[kv.group];
        [block.index() * g.num_layers + kv.layer, (part * g.num_heads + head) * g.block_len + offset]
    }

    pub(super) fn head(
        &self,
        kv: KvLayer,
        block: BlockId,
        part: usize,
        head: usize,
        offset: usize,
    ) -> &[f32] {
        let (g, [at, row]) = (&self.geometries[kv.group], self.place(kv, block, part, head, offset));
        &self.groups[kv.group].values[at * g.layer_block_len() + row * g.head_dim..][..g.head_dim]
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
        let (g, [at, row]) = (self.geometries[kv.group], self.place(kv, block, part, head, offset));
        let Group { bytes, values } = &mut self.groups[kv.group];
        let layer = &mut bytes[at * g.layer_block_bytes()..][..g.layer_block_bytes()];
        let (scale, mut elements) = (g.format.scale(x), Vec::new());
        g.format.encode(x, scale, &mut elements);
        layer[g.row_elements(row)].copy_from_slice(&elements);
        let place = g.row_scale(row);
        layer[place.clone()].copy_from_slice(&scale.to_le_bytes()[..place.len()]);
        let values = &mut values[at * g.layer_block_len() + row * g.head_dim..][..g.head_dim];
        values.iter_mut().zip(g.decode_row(layer, row)).for_each(|(to, value)| *to = value);
    }

    fn check(&self, group: usize, block: BlockId) -> Result<KvGeometry> {
        let g = self.geometries[group];
        g.check_id(block)?;
        Ok(g)
    }
}

impl KvCache for ReferenceKv {
    fn geometry(&self, group: usize) -> KvGeometry {
        self.geometries[group]
    }

    fn bytes(&self) -> usize {
        self.groups.iter().map(|g| g.bytes.len() + size_of_val(&g.values[..])).sum()
    }

    fn read_block(&self, group: usize, block: BlockId) -> Result<HostTensor> {
        let g = self.check(group, block)?;
        let bytes = self.groups[group].bytes[block.index() * g.block_bytes()..][..g.block_bytes()].to_vec();
        Ok(HostTensor::from_bytes(g.block_shape(), g.block_dtype(), bytes))
    }

    fn write_block(&mut self, group: usize, block: BlockId, data: &HostTensor) -> Result<()> {
        let g = self.check(group, block)?;
        let new = g.decode_block(data)?;
        let Group { bytes, values } = &mut self.groups[group];
        bytes[block.index() * g.block_bytes()..][..g.block_bytes()].copy_from_slice(data.bytes());
        values[block.index() * new.len()..][..new.len()].copy_from_slice(&new);
        Ok(())
    }

    fn copy_blocks(&mut self, group: usize, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        for &(from, to) in pairs {
            let block = self.read_block(group, from)?;
            self.write_block(group, to, &block)?;
        }
        Ok(())
    }
}
