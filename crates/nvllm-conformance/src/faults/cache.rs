//! Keys that are stored otherwise than their format says.

use nvllm_core::{HostTensor, KvFormat, KvGeometry, Tensor};

/// What is wrong with the first key that a step stores, in each layer and head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFault {
    /// Its scale is 1.
    LostScale,
    /// Its scale is that of the head after it.
    OtherScale,
    /// FP8 numbers beyond the largest are NaN.
    Unsaturated,
}

impl CacheFault {
    /// Every fault.
    pub(super) const ALL: [Self; 3] = [Self::LostScale, Self::OtherScale, Self::Unsaturated];

    /// What it says in a table.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::LostScale => "an int8 row without its scale",
            Self::OtherScale => "an int8 row with the scale of another head",
            Self::Unsaturated => "FP8 that does not saturate",
        }
    }

    /// The block as it is stored with the fault in the keys at `offset`.
    pub(super) fn apply(self, g: &KvGeometry, block: &HostTensor, offset: usize) -> HostTensor {
        let mut bytes = block.bytes().to_vec();
        for layer in bytes.chunks_mut(g.layer_block_bytes()) {
            for head in 0..g.num_heads {
                let place = |head: usize| g.row_scale(head * g.block_len + offset);
                match (self, g.format) {
                    (Self::LostScale, KvFormat::Int8) => {
                        layer[place(head)].copy_from_slice(&1.0_f32.to_le_bytes());
                    }
                    (Self::OtherScale, KvFormat::Int8) if head + 1 < g.num_heads => {
                        layer.copy_within(place(head + 1), place(head).start);
                    }
                    (Self::Unsaturated, KvFormat::Fp8) => {
                        let row = &mut layer[g.row_elements(head * g.block_len + offset)];
                        row.iter_mut().filter(|byte| **byte & 0x7f == 0x7e).for_each(|byte| *byte |= 1);
                    }
                    _ => {}
                }
            }
        }
        HostTensor::from_bytes(block.shape(), block.dtype(), bytes)
    }
}
