//! What a pass's kernel reads: kernels/decode_pass/phase.cuh says what each part is.

use bytemuck::{Pod, Zeroable};

use crate::kernels::decode_pass::phase as numbers;
use crate::kernels::decode_pass::weight_ring::TILE_ROWS;
use crate::kernels::linear::linear_order::range_len;
use crate::memory::Address;

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
    pub per_step: u32,
    pub first_block: u32,
    pub tiles: u32,
    pub x_tag: i32,
    pub y_tag: i32,
    pub residual_tag: i32,
    /// The bits of an f32.
    pub eps: u32,
    pub padding: u32,
    pub x: Address,
    pub y: Address,
    pub residual: Address,
    pub norm: Address,
    pub bias: Address,
    pub keys: Address,
    pub values: Address,
    pub more_padding: [u32; 4],
}

const _: () = assert!(size_of::<Phase>() == numbers::PHASE_BYTES);

/// A weight of the pass: `PassWeight` there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Weight {
    pub w: Address,
    pub k: u32,
    pub outputs: u32,
    pub flags: u32,
    pub first_block: u32,
    pub tiles: u32,
    pub padding: u32,
}

const _: () = assert!(size_of::<Weight>() == numbers::WEIGHT_BYTES);

pub(super) const LINEAR: u32 = numbers::PHASE_LINEAR as u32;
pub(super) const ATTENTION: u32 = numbers::PHASE_ATTENTION as u32;
pub(super) const FOLD: u32 = numbers::PHASE_FOLD as u32;

pub(super) const SILU: u32 = numbers::PHASE_SILU as u32;
pub(super) const OUT_F32: u32 = numbers::PHASE_OUT_F32 as u32;
pub(super) const GATHER: u32 = numbers::PHASE_GATHER as u32;

/// Of plain rows.
pub(super) const NO_TAG: i32 = -1;

impl Phase {
    /// A linear layer of `k` columns of x and `outputs` of y.
    pub(super) fn linear(k: usize, outputs: usize, flags: u32) -> Self {
        let tile = if flags & SILU != 0 { TILE_ROWS / 2 } else { TILE_ROWS };
        let len = range_len(k);
        let (ranges, tiles) = (k.div_ceil(len) as u32, outputs.div_ceil(tile) as u32);
        let per_step = (65_536 / (len / 64) + 1) as u32;
        let (k, outputs, len) = (k as u32, outputs as u32, len as u32);
        Self { kind: LINEAR, flags, k, outputs, len, ranges, per_step, tiles, ..Self::default() }
    }
}

/// Where the phases begin among `blocks` blocks: linear layers where those that get a tile more
/// have least to read so far in their transformer layer, which begins before attention; attention
/// where the linear layer after it is not.
pub(super) fn spread(phases: &mut [Phase], blocks: usize) {
    let mut bytes = vec![0; blocks];
    for i in 0..phases.len() {
        if phases.get(i + 1).is_some_and(|next| next.kind == ATTENTION) {
            bytes.fill(0);
        }
        if phases[i].kind == LINEAR {
            let (tiles, k) = (phases[i].tiles as usize, u64::from(phases[i].k));
            let first = least(&bytes, tiles % blocks);
            (0..tiles).for_each(|tile| bytes[(first + tile) % blocks] += k);
            phases[i].first_block = first as u32;
        }
    }
    let mut after = 0;
    for phase in phases.iter_mut().rev() {
        if phase.kind == LINEAR {
            after = (phase.first_block + phase.tiles) % blocks as u32;
        } else {
            phase.first_block = after;
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
        spread(&mut phases, 132);
        phases
    }

    #[test]
    fn a_linear_layer_is_cut_as_its_order_says() {
        let of = |k| {
            let Phase { len, ranges, per_step, .. } = Phase::linear(k, 16, 0);
            let over = |n: u32| (n * per_step) >> 16;
            assert!((0..8 * len / 64).all(|n| over(n) == n / (len / 64)), "{k}");
            (len, ranges)
        };
        assert_eq!([64, 576, 1024, 3072, 12_288].map(of), [(64, 1), (128, 5), (128, 8), (384, 8), (1536, 8)]);
    }

    #[test]
    fn blocks_read_about_as_much_and_attention_lies_where_the_next_layer_does_not() {
        let phases = model();
        let mut bytes = [0; 132];
        for phase in phases[..12].iter().filter(|phase| phase.kind == LINEAR) {
            (0..phase.tiles)
                .for_each(|tile| bytes[((phase.first_block + tile) % 132) as usize] += 32 * phase.k);
        }
        let all: u32 = bytes.iter().sum();
        assert!(bytes.iter().all(|&bytes| 9 * bytes < 10 * (all / 132)), "{bytes:?}");
        for layer in phases.chunks_exact(6) {
            let [_, attention, fold, next, ..] = layer else { panic!("six phases a layer") };
            assert_eq!(attention.first_block, (next.first_block + next.tiles) % 132);
            assert_eq!(fold.first_block, attention.first_block);
            assert_eq!(attention.first_block, phases[1].first_block, "the same in every layer");
        }
    }
}
