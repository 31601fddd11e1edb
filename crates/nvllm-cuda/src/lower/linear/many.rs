//! Kernels for many rows, in tiles of tokens and of rows of W: `tensor_core.cu` and `wgmma.cu`.

use super::{Linear, operands};
use crate::error::Result;
use crate::launch::{Dim, Launch};
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
