//! What a pass's kernel reads: kernels/decode_pass/phase.cuh says what each part is.

use bytemuck::{Pod, Zeroable};

use super::limits::MAPS;
use crate::kernels::decode_pass::phase as numbers;
use crate::kernels::decode_pass::weight_ring::{NARROW_ROWS, TILE_ROWS, WEIGHT_BYTES};
use crate::kernels::linear::linear_order::range_len;
use crate::memory::Address;
use crate::tensor_map::RangeBox;

/// A phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Phase {
    pub kind: u32,
    pub flags: u32,
    pub k: u32,
    pub outputs: u32,
    pub len: u32,
    pub ranges: u32,
    pub first_block: u32,
    pub tiles: u32,
    pub x_tag: i32,
    pub y_tag: i32,
    pub residual_tag: i32,
    /// The bits of an f32.
    pub eps: u32,
    pub x: Address,
    pub y: Address,
    pub residual: Address,
    pub norm: Address,
    pub bias: Address,
    pub keys: Address,
    pub values: Address,
    pub padding: [u32; 6],
}

const _: () = assert!(size_of::<Phase>() == numbers::PHASE_BYTES);

/// A weight of the pass, and how its tiles come: `PassWeight` in weight_ring.cuh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Weight {
    pub first_block: u16,
    pub tiles: u16,
    pub copies: u8,
    pub whole: u8,
    pub rows: u8,
    pub steps: u8,
}

const _: () = assert!(size_of::<Weight>() == WEIGHT_BYTES);

pub(super) const LINEAR: u32 = numbers::PHASE_LINEAR as u32;
pub(super) const ATTENTION: u32 = numbers::PHASE_ATTENTION as u32;
pub(super) const FOLD: u32 = numbers::PHASE_FOLD as u32;

pub(super) const SILU: u32 = numbers::PHASE_SILU as u32;
pub(super) const OUT_F32: u32 = numbers::PHASE_OUT_F32 as u32;
pub(super) const GATHER: u32 = numbers::PHASE_GATHER as u32;
pub(super) const NARROW: u32 = numbers::PHASE_NARROW as u32;

/// Of plain rows.
pub(super) const NO_TAG: i32 = -1;

impl Phase {
    /// A linear layer of `k` columns of x and `outputs` of y.
    pub(super) fn linear(k: usize, outputs: usize, flags: u32) -> Self {
        let len = range_len(k);
        let phase = Self { kind: LINEAR, flags, k: k as u32, outputs: outputs as u32, ..Self::default() };
        let (ranges, tiles) = (k.div_ceil(len) as u32, outputs.div_ceil(phase.tile_outputs()) as u32);
        Self { len: len as u32, ranges, tiles, ..phase }
    }

    /// Outputs of a tile: its rows of W, half of them where gate lies above up.
    fn tile_outputs(&self) -> usize {
        if self.flags & (SILU | NARROW) == 0 { TILE_ROWS } else { NARROW_ROWS }
    }

    /// The same with tiles of fewer rows where, on `blocks` blocks, none then has as many rows.
    /// They come two steps a copy.
    fn narrowed(self, blocks: usize) -> Self {
        let narrow = Self::linear(self.k as usize, self.outputs as usize, self.flags | NARROW);
        let most = |phase: &Self| (phase.tiles as usize).div_ceil(blocks) * phase.tile_outputs();
        let even = self.k.is_multiple_of(self.len) && (self.len / 64).is_multiple_of(2);
        if self.flags & SILU == 0 && even && most(&narrow) < most(&self) {
            Self { flags: narrow.flags, tiles: narrow.tiles, ..self }
        } else {
            self
        }
    }

    /// How a linear layer's weight comes; None if it has more tiles or columns than the list has
    /// room for.
    pub(super) fn weight(&self) -> Option<Weight> {
        let steps = if self.flags & NARROW == 0 { 1 } else { 2 };
        let last = self.k - (self.ranges - 1) * self.len;
        let byte = |n: u32| u8::try_from(n).ok();
        Some(Weight {
            first_block: u16::try_from(self.first_block).ok()?,
            tiles: u16::try_from(self.tiles).ok()?,
            copies: byte(self.len / 64 / steps)?,
            whole: byte(last / 64 / steps)?,
            rows: byte(self.tile_outputs() as u32)?,
            steps: byte(steps)?,
        })
    }

    /// What a copy of its weight moves, first of all ranges, then of all but the last.
    pub(super) fn boxes(&self) -> [RangeBox; MAPS] {
        let halves = if self.flags & SILU == 0 { 1 } else { 2 };
        let steps = if self.flags & NARROW == 0 { 1 } else { 2 };
        let ranges = self.ranges as usize;
        // A matrix of one range has no copy without it.
        [ranges, (ranges - 1).max(1)].map(|ranges| RangeBox {
            halves,
            rows: self.tile_outputs(),
            steps,
            range: self.len as usize,
            ranges,
        })
    }
}

/// Where the phases begin among `blocks` blocks, and in tiles of how many rows: linear layers where
/// those that get a tile more have least to read so far in their transformer layer. That begins
/// with the keys and values of a chunk: attention, `units` a chunk of `unit_bytes`, is at the first
/// blocks.
pub(super) fn spread(phases: &mut [Phase], blocks: usize, units: usize, unit_bytes: usize) {
    let attends = |block: usize| if block < units { unit_bytes as u64 } else { 0 };
    let mut bytes: Vec<u64> = (0..blocks).map(attends).collect();
    for i in 0..phases.len() {
        if phases.get(i + 1).is_some_and(|next| next.kind == ATTENTION) {
            bytes.iter_mut().enumerate().for_each(|(block, bytes)| *bytes = attends(block));
        }
        if phases[i].kind == LINEAR {
            let phase = phases[i].narrowed(blocks);
            let rows = phase.tile_outputs() * if phase.flags & SILU == 0 { 1 } else { 2 };
            let tiles = phase.tiles as usize;
            let first = least(&bytes, tiles % blocks);
            let of_tile = rows as u64 * u64::from(phase.k) * 2;
            (0..tiles).for_each(|tile| bytes[(first + tile) % blocks] += of_tile);
            phases[i] = Phase { first_block: first as u32, ..phase };
        }
    }
}

/// Where `len` neighbours begin of which the largest is least, and then their sum.
fn least(values: &[u64], len: usize) -> usize {
    let of = |first: usize| {
        let neighbours = (0..len).map(|i| values[(first + i) % values.len()]);
        (neighbours.clone().max(), neighbours.sum::<u64>())
    };
    (0..values.len()).min_by_key(|&first| of(first)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layers of Qwen3-0.6B's shapes and a head.
    fn model() -> Vec<Phase> {
        let other = |kind| Phase { kind, ..Phase::default() };
        let layer = [
            Phase::linear(1024, 4096, 0),
            other(ATTENTION),
            other(FOLD),
            Phase::linear(2048, 1024, 0),
            Phase::linear(1024, 3072, SILU),
            Phase::linear(3072, 1024, 0),
        ];
        let mut phases: Vec<_> = layer.iter().chain(&layer).copied().collect();
        phases.push(Phase::linear(1024, 151_936, OUT_F32));
        spread(&mut phases, 132, 8, 1 << 17);
        phases
    }

    #[test]
    fn a_linear_layer_is_cut_as_its_order_says() {
        let of = |k| {
            let Phase { len, ranges, .. } = Phase::linear(k, 16, 0);
            (len, ranges)
        };
        assert_eq!([64, 576, 1024, 3072, 12_288].map(of), [(64, 1), (128, 5), (128, 8), (384, 8), (1536, 8)]);
    }

    #[test]
    fn copies_bring_every_column_once_and_none_beyond_the_last() {
        for (k, flags) in [(64, 0), (576, 0), (1024, SILU), (2048, NARROW), (3072, NARROW), (12_288, 0)] {
            let phase = Phase::linear(k, 128, flags);
            let (weight, boxes) = (phase.weight().unwrap(), phase.boxes());
            let mut read = vec![0; k];
            for copy in 0..weight.copies {
                let each = boxes[usize::from(copy >= weight.whole)];
                for range in
                    0..each.ranges.min(if copy < weight.whole { 8 } else { phase.ranges as usize - 1 })
                {
                    let first = range * each.range + usize::from(copy) * each.steps * 64;
                    (first..first + each.steps * 64).for_each(|col| read[col] += 1);
                }
            }
            assert!(read.iter().all(|&times| times == 1), "{k}");
        }
    }

    #[test]
    fn blocks_read_about_as_much_and_those_that_attend_less_of_weights() {
        let phases = model();
        let mut bytes = [0; 132];
        for phase in phases[..6].iter().filter(|phase| phase.kind == LINEAR) {
            let rows = if phase.flags & NARROW == 0 { 16 } else { 8 };
            (0..phase.tiles).for_each(|tile| {
                bytes[((phase.first_block + tile) % 132) as usize] += 2 * rows * phase.k;
            });
        }
        let all: u32 = bytes.iter().sum();
        assert!(bytes.iter().all(|&bytes| 9 * bytes < 10 * (all / 132)), "{bytes:?}");
        let [most_of_attending, least_of_others] = [bytes[..8].iter().max(), bytes[8..].iter().min()];
        assert!(most_of_attending < least_of_others, "{bytes:?}");
        for layer in phases.chunks_exact(6) {
            let [qkv, attention, fold, o, gate_up, down] = layer else { panic!("six phases a layer") };
            assert_eq!((attention.first_block, fold.first_block), (0, 0));
            let narrow = [qkv, o, gate_up, down].map(|phase| phase.flags & NARROW != 0);
            assert_eq!(narrow, [false, true, false, true]);
            // One more tile for all others.
            assert_eq!((qkv.first_block, qkv.tiles % 132), (8, 124));
        }
    }
}
