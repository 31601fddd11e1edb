//! Kernels for many rows, in tiles of tokens and of rows of W: `tensor_core.cu` and `wgmma.cu`.

use super::{Linear, operands};
use crate::error::Result;
use crate::kernels::linear::tensor_core::{TILE_ROWS, shared_bytes};
use crate::launch::{Dim, Launch};
use crate::lower::Lowering;
use crate::modules::SharedKernel;

pub(super) fn tensor_core(lowering: &Lowering<'_>, l: &Linear, tokens: usize) -> Result<Vec<Launch>> {
    let kernel = kernel(l, tokens);
    let function = lowering.modules.shared_function(&kernel)?;
    let args = operands(l, l.factors(), 0);
    Ok(vec![Launch::new(&function, blocks(l, tokens), args).with_shared(kernel.shared).early()])
}

/// The kernel for tiles of so many tokens.
pub(super) fn kernel(l: &Linear, tokens: usize) -> SharedKernel {
    let name = format!("linear_tensor_core{}_t{tokens}", l.form());
    SharedKernel::new(name, shared_bytes(tokens, l.device.tight))
}

/// A block for each tile, no more than there are multiprocessors.
fn blocks(l: &Linear, tokens: usize) -> Dim {
    Dim::Tiles { rows: l.y.rows, cols: 1, per: tokens, each: l.tiles(TILE_ROWS), most: l.device.blocks }
}
