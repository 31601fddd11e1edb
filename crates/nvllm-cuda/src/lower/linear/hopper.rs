//! Kernels for Hopper's copy engine and matrix instructions, from some tens of rows on: `wgmma.cu`
//! and `cluster_split.cu`.

use super::{Linear, operands};
use crate::error::Result;
use crate::kernels::linear::linear_order::RANGES;
use crate::kernels::linear::{cluster_split as split, wgmma};
use crate::launch::{Args, Dim, Launch};
use crate::lower::Lowering;
use crate::modules::SharedKernel;

/// A tile of `wgmma.cu`, and what a copy brings of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    /// Consumer warpgroups, of 64 tokens each.
    groups: usize,
    /// Rows of W.
    cols: usize,
    /// Most steps of 64 columns a copy. A copy costs the thread that asks for it the same whatever
    /// its size, which short products feel.
    most_steps: usize,
}

pub(super) const C1_N32: Tile = Tile { groups: 1, cols: 32, most_steps: 2 };
pub(super) const C1_N64: Tile = Tile { groups: 1, cols: 64, most_steps: 2 };
pub(super) const C1_N128: Tile = Tile { groups: 1, cols: 128, most_steps: 2 };
pub(super) const C2_N64: Tile = Tile { groups: 2, cols: 64, most_steps: 2 };
pub(super) const C2_N128: Tile = Tile { groups: 2, cols: 128, most_steps: 1 };
pub(super) const C3_N128: Tile = Tile { groups: 3, cols: 128, most_steps: 1 };

/// Shared memory of a block with 64 tokens and less than 128 rows of W: blocks of the next kernel
/// then begin beside it and ask for their weights (bench/records/decode-step, 6).
const NARROW_SHARED: usize = 150 << 10;

/// Columns of the longest K for which tiles of fewer than 128 rows of W were measured.
const NARROW_COLS: usize = 3072;

/// Whether tiles of fewer than 128 rows of W pay: each reads all of x from L2. They copy two steps
/// at once.
pub(super) fn narrow(l: &Linear) -> bool {
    l.hopper() && l.k() <= NARROW_COLS && steps(l, 2) == 2
}

/// The most steps of 64 columns a copy, one or two, that divide those of a range.
const fn steps(l: &Linear, most: usize) -> usize {
    if (l.range() / 64).is_multiple_of(most) { most } else { 1 }
}

impl Tile {
    const fn tokens(self) -> usize {
        wgmma::tile_tokens(self.groups)
    }

    /// Rows at most for which all tiles run in one wave, each on a multiprocessor of its own: a
    /// decode step is short, and a second wave takes as long again.
    pub(super) fn one_wave_rows(self, l: &Linear) -> usize {
        self.tokens() * (l.device.blocks / l.tiles(self.cols))
    }

    /// Its kernel and that one's stages.
    fn kernel(self, l: &Linear) -> (SharedKernel, usize) {
        let (Self { groups, cols, .. }, steps) = (self, steps(l, self.most_steps));
        let outputs = if l.form().is_empty() { cols } else { cols / 2 };
        let stage = wgmma::stage_bytes(groups, cols, steps);
        let staging = wgmma::staging_bytes(groups, outputs);
        let narrow = groups == 1 && cols < C1_N128.cols;
        let most = if narrow { NARROW_SHARED.min(l.device.shared) } else { l.device.shared };
        let stages = (most - staging) / stage;
        let name = format!("linear_wgmma{}_c{groups}_n{cols}_s{steps}", l.form());
        (SharedKernel::new(name, stages * stage + staging), stages)
    }

    /// Its launch.
    pub(super) fn launch(self, lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
        let ((kernel, stages), cols) = (self.kernel(l), self.cols);
        let function = lowering.modules.shared_function(&kernel)?;
        let [w, x] = l.maps(lowering.limits, [cols, self.tokens()], steps(l, self.most_steps))?;
        let args = operands(l, Args::new().map(&w).map(&x), 0).int(stages);
        let tiles = Dim::Tiles {
            rows: l.y.rows,
            cols: 1,
            per: self.tokens(),
            each: l.tiles(cols),
            most: l.device.blocks,
        };
        Ok(vec![Launch::new(&function, tiles, args).with_shared(kernel.shared).early()])
    }
}

/// Rows at most for which tiles with 64 tokens are best: one for each multiprocessor, or one layer
/// of them.
///
/// A tile of 64 tokens takes some 0.7 of the time of one of 128 (bench/records/kernels/cuda.jsonl,
/// run 2026-11-22T20:58Z), so it wins until it takes another wave.
pub(super) fn single_rows(l: &Linear) -> usize {
    C1_N128.one_wave_rows(l).max(64)
}

/// Rows at most for which tiles with 128 tokens are best: with a short K those of 192 are better
/// where they are many (same run).
pub(super) const fn double_rows(l: &Linear) -> usize {
    if l.k() <= 1024 { 1024 } else { usize::MAX }
}

/// Shared memory of a block of `cluster_split.cu`.
const fn split_shared(l: &Linear) -> usize {
    split::shared_bytes(l.range() / 64)
}

fn split_kernel(l: &Linear) -> SharedKernel {
    SharedKernel::new("linear_cluster_split".into(), split_shared(l))
}

/// The kernels of `wgmma.cu` that take `l`, and that of `cluster_split.cu`, as it would be launched
/// by them.
pub(super) fn kernels(l: &Linear) -> Vec<SharedKernel> {
    let tiles = [C1_N32, C1_N64, C1_N128, C2_N64, C2_N128, C3_N128];
    let taking = tiles.into_iter().filter(|tile| tile.cols == C1_N128.cols || narrow(l));
    taking.map(|tile| tile.kernel(l).0).chain([split_kernel(l)]).collect()
}

/// Blocks of `cluster_split.cu` for a tile of tokens: one for each tile of W and range of K.
const fn split_blocks(l: &Linear) -> usize {
    RANGES * l.n.div_ceil(split::TILE)
}

/// Whether the ranges of K of all tiles run at once.
pub(super) fn splits(l: &Linear) -> bool {
    l.hopper()
        && l.form().is_empty()
        && split_blocks(l) <= l.device.blocks
        && l.n.is_multiple_of(4)
        && split_shared(l) <= l.device.shared
}

pub(super) fn cluster_split(lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
    let (steps, kernel) = (steps(l, 2), split_kernel(l));
    let function = lowering.modules.shared_function(&kernel)?;
    let [w, x] = l.maps(lowering.limits, [split::TILE; 2], steps)?;
    let args = operands(l, Args::new().map(&w).map(&x), 0).int(steps);
    let blocks = Dim::Fixed(split_blocks(l));
    let launch = Launch::new(&function, blocks, args).by(Dim::Rows { rows: l.y.rows, per: split::TILE });
    Ok(vec![launch.with_shared(kernel.shared).early()])
}
