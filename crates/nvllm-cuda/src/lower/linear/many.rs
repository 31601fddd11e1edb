//! Kernels for many rows, in tiles of tokens and of rows of W: `tensor_core.cu` and `wgmma.cu`.

use super::{Linear, operands};
use crate::error::Result;
use crate::kernels::linear::tensor_core::{TILE_ROWS, shared_bytes};
use crate::launch::{Dim, Launch};
use crate::lower::Lowering;

pub(super) fn tensor_core(lowering: &Lowering<'_>, l: &Linear, tokens: usize) -> Result<Vec<Launch>> {
    let shared = shared_bytes(tokens, l.device.tight) as u32;
    let name = format!("linear_tensor_core{}_t{tokens}", l.form());
    let function = lowering.modules.function_with(&name, shared)?;
    let args = operands(l, l.factors(), 0);
    Ok(vec![Launch::new(&function, blocks(l, tokens), args).with_shared(shared).early()])
}

/// A block for each tile, no more than there are multiprocessors.
fn blocks(l: &Linear, tokens: usize) -> Dim {
    Dim::Tiles { rows: l.y.rows, cols: 1, per: tokens, each: l.tiles(TILE_ROWS), most: l.device.blocks }
}
