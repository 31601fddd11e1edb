//! Kernels for few rows, where W is read once: `small_m.cu` and `mid_m.cu`.

use super::{Linear, operands};
use crate::error::Result;
use crate::launch::{Args, Dim, Launch};
use crate::lower::Lowering;

/// How `small_m.cu` goes through W.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Small {
    /// Tiles of so many rows of W, one a block.
    Resident(usize),
    Stream,
}

impl Small {
    const fn tile_rows(self) -> usize {
        match self {
            Self::Resident(rows) => rows,
            Self::Stream => 16,
        }
    }

    /// Dynamic shared memory of a block, as small_m.cu has it.
    fn shared(self, l: &Linear, tokens: usize) -> usize {
        let (range, rows) = (l.range(), self.tile_rows());
        let partial = 32 * (rows + 4) * tokens;
        let x = 8 * tokens * range * 2;
        match self {
            Self::Resident(_) => 8 * (range / 64) * rows * 128 + partial + x,
            Self::Stream => 8 * (if l.room.tight { 4 } else { 6 }) * rows * 128 + 2 * partial + x,
        }
    }
}

/// The fewest rows with which one tile a multiprocessor covers W; otherwise W streams. None if not even that fits.
pub(super) fn small(l: &Linear, tokens: usize) -> Option<Small> {
    let fits = |way: &Small| way.shared(l, tokens) <= l.room.shared;
    let covers = |rows: &usize| l.tiles(*rows) <= l.room.blocks;
    let resident = [16, 32, 48].into_iter().filter(covers).map(Small::Resident).find(fits);
    resident.or_else(|| Some(Small::Stream).filter(fits))
}

/// The flag that lets the next kernel start when x is here, so that its weights do not queue before x.
const LATE: usize = 2;

pub(super) fn small_m(lowering: &Lowering<'_>, l: &Linear, tokens: usize) -> Result<Vec<Launch>> {
    let way = small(l, tokens).unwrap_or(Small::Stream);
    let shared = way.shared(l, tokens) as u32;
    let (form, tiles) = (l.form(), l.tiles(way.tile_rows()));
    let (name, grid) = match way {
        Small::Resident(rows) => (format!("linear_small_m{form}_r{rows}_t{tokens}"), tiles),
        Small::Stream => {
            let name = format!("linear_small_m{form}_stream_t{tokens}");
            let at_once = lowering.modules.blocks_at_once(&name, 256, shared)?;
            (name, tiles.min(at_once * l.room.blocks))
        }
    };
    // y's type is the other flag. No norm in front of it.
    let args = operands(l, l.factors(), LATE).ptr(0).f32(0.0);
    let function = lowering.modules.function_with(&name, shared)?;
    Ok(vec![Launch::new(function, Dim::Fixed(grid), 256, args).with_shared(shared).early()])
}

/// Shared memory of `mid_m.cu`: a ring of 4 stages.
const MID_SHARED: u32 = 65_536;

pub(super) fn mid_m(lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
    let function = lowering.modules.function_with(&format!("linear_mid_m{}", l.form()), MID_SHARED)?;
    let launch = Launch::new(function, Dim::Fixed(l.tiles(64)), 128, operands(l, l.factors(), 0));
    Ok(vec![launch.by(Dim::Rows { rows: l.y.rows, per: 64 }).with_shared(MID_SHARED).early()])
}

pub(super) fn mid_m_split(lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
    let partial = lowering.partial;
    let function = lowering.modules.function_with("linear_mid_m_split", MID_SHARED)?;
    let args = l.factors().ptr(partial).rows(l.y.rows).int(l.n).int(l.k());
    let split = Launch::new(function, Dim::Fixed(8 * l.n.div_ceil(64)), 128, args)
        .by(Dim::Rows { rows: l.y.rows, per: 64 })
        .with_shared(MID_SHARED);
    let args = operands(l, Args::new().ptr(partial), 0);
    let blocks = Dim::Tiles { rows: l.y.rows, cols: l.y.cols, per: 1024, each: 1, most: usize::MAX };
    let function = lowering.function(&format!("linear_merge{}", l.form()))?;
    let merge = Launch::new(function, blocks, 256, args);
    Ok(vec![split.early(), merge.early()])
}
