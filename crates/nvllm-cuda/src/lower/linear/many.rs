//! Kernels for many rows, in tiles of tokens and of rows of W: `tensor_core.cu` and `wgmma.cu`.

use super::{Linear, operands};
use crate::error::Result;
use crate::launch::{Args, Dim, Launch};
use crate::lower::Lowering;

/// Rows of W in a tile.
const TILE_ROWS: usize = 128;

pub(super) fn tensor_core(lowering: &Lowering<'_>, l: &Linear, tokens: usize) -> Result<Vec<Launch>> {
    let stages = if l.device.tight { 2 } else { 4 };
    let shared = (stages * (TILE_ROWS + tokens) * 128 + 8 * 16 * 68 * 4) as u32;
    let name = format!("linear_tensor_core{}_t{tokens}", l.form());
    let function = lowering.modules.function_with(&name, shared)?;
    let args = operands(l, l.factors(), 0);
    Ok(vec![Launch::new(&function, blocks(l, tokens), 256, args).with_shared(shared).early()])
}

/// A block for each tile, no more than there are multiprocessors.
fn blocks(l: &Linear, tokens: usize) -> Dim {
    Dim::Tiles { rows: l.y.rows, cols: 1, per: tokens, each: l.tiles(TILE_ROWS), most: l.device.blocks }
}

/// Rows at most for which tiles of `wgmma.cu` with 64 tokens are best: one for each multiprocessor,
/// or one layer of them.
///
/// A tile of 64 tokens takes some 0.7 of the time of one of 128 (bench/records/kernels/cuda.jsonl,
/// run 2026-11-22T20:58Z), so it wins until it takes another turn of all multiprocessors.
pub(super) fn single_rows(l: &Linear) -> usize {
    64 * (l.device.blocks / l.tiles(TILE_ROWS)).max(1)
}

/// Rows at most for which tiles with 128 tokens are best: with a short K those of 192 are better
/// where they are many (same run).
pub(super) const fn double_rows(l: &Linear) -> usize {
    if l.k() <= 1024 { 1024 } else { usize::MAX }
}

/// `wgmma.cu` with `groups` times 64 tokens a tile.
pub(super) fn wgmma(lowering: &Lowering<'_>, l: &Linear, groups: usize) -> Result<Vec<Launch>> {
    let Some([w, x]) = &l.maps else { return Ok(Vec::new()) };
    let (tokens, stages) = (64 * groups, 7 - groups);
    let shared = (1024 + stages * (tokens + TILE_ROWS) * 128 + groups * 17_408) as u32;
    let name = format!("linear_wgmma{}_c{groups}", l.form());
    let function = lowering.modules.function_with(&name, shared)?;
    let args = operands(l, Args::new().map(w).map(x), 0);
    let block = 128 * (groups as u32 + 1);
    Ok(vec![Launch::new(&function, blocks(l, tokens), block, args).with_shared(shared).early()])
}
