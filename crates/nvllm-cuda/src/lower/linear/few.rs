//! Kernels for few rows, where W is read once: `small_m.cu` and `mid_m.cu`.

use super::{Linear, operands};
use crate::error::Result;
use crate::kernels::linear::linear_order::RANGES;
use crate::kernels::linear::mid_m::{MERGED, SHARED, TILE};
use crate::kernels::linear::small_m::{LATE, ring, shared_bytes};
use crate::kernels::rms_norm::norm_order::norm_cols;
use crate::launch::{Args, Dim, Launch};
use crate::lower::Lowering;
use crate::memory::Address;
use crate::modules::SharedKernel;

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

    /// Dynamic shared memory of a block.
    fn shared(self, l: &Linear, tokens: usize) -> usize {
        let (slots, buffers) = match self {
            Self::Resident(_) => (l.range() / 64, 1),
            Self::Stream => (ring(l.device.tight), 2),
        };
        shared_bytes(self.tile_rows(), tokens, slots, buffers, tokens, l.range())
    }

    /// The kernel for up to `tokens` rows, with a norm in front or not.
    fn kernel(self, l: &Linear, tokens: usize, normed: bool) -> SharedKernel {
        let traversal = match self {
            Self::Resident(rows) => format!("r{rows}"),
            Self::Stream => "stream".into(),
        };
        let norm = match normed {
            false => "",
            true if l.k() <= norm_cols(1) => "_norm1",
            true => "_norm4",
        };
        let name = format!("linear_small_m{}_{traversal}{norm}_t{tokens}", l.form());
        SharedKernel::new(name, self.shared(l, tokens))
    }
}

/// Every kernel of `small_m.cu` and `mid_m.cu` with shared memory, as `l` would be launched by it.
pub(super) fn kernels(l: &Linear) -> Vec<SharedKernel> {
    let traversals = [16, 32, 48].map(Small::Resident).into_iter().chain([Small::Stream]);
    let takes = [(8, false), (16, false), (32, false), (8, true)];
    let small = |traversal: Small| takes.map(|(tokens, normed)| traversal.kernel(l, tokens, normed));
    traversals.flat_map(small).chain([mid(l), mid_split()]).collect()
}

/// The fewest rows with which one tile a multiprocessor covers W; otherwise W streams. None if not
/// even that fits.
pub(super) fn small(l: &Linear, tokens: usize) -> Option<Small> {
    let fits = |traversal: &Small| traversal.shared(l, tokens) <= l.device.shared;
    let covers = |rows: &usize| l.tiles(*rows) <= l.device.blocks;
    let resident = [16, 32, 48].into_iter().filter(covers).map(Small::Resident).find(fits);
    resident.or_else(|| Some(Small::Stream).filter(fits))
}

/// A norm of x that every block makes for itself.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    pub weight: Address,
    pub eps: f32,
}

impl Norm {
    pub(super) const NONE: Self = Self { weight: 0, eps: 0.0 };
}

pub(super) fn small_m(lowering: &Lowering<'_>, l: &Linear, tokens: usize) -> Result<Vec<Launch>> {
    small_m_with(lowering, l, tokens, None)
}

pub(super) fn small_m_with(
    lowering: &Lowering<'_>,
    l: &Linear,
    tokens: usize,
    norm: Option<Norm>,
) -> Result<Vec<Launch>> {
    let traversal = small(l, tokens).unwrap_or(Small::Stream);
    let kernel = traversal.kernel(l, tokens, norm.is_some());
    let tiles = l.tiles(traversal.tile_rows());
    let grid = match traversal {
        Small::Resident(_) => tiles,
        Small::Stream => tiles.min(lowering.modules.blocks_at_once(&kernel)? * l.device.blocks),
    };
    // The next kernel then starts when x is here. Kernels with a norm are faster so; the others let
    // attention ask for old keys the sooner (bench/records/decode-step, 6). y's type is the other
    // flag.
    let flags = if norm.is_some() { LATE } else { 0 };
    let Norm { weight, eps } = norm.unwrap_or(Norm::NONE);
    let args = operands(l, l.factors(), flags).ptr(weight).f32(eps);
    let function = lowering.modules.shared_function(&kernel)?;
    Ok(vec![Launch::new(&function, Dim::Fixed(grid), args).with_shared(kernel.shared).early()])
}

/// Rows at most for which the norm in every block costs less than a launch of its own.
pub(in crate::lower) const NORM_ROWS: usize = 2;

/// Columns of the widest row that a block makes the norm of.
pub(super) const NORM_COLS: usize = norm_cols(4);

fn mid(l: &Linear) -> SharedKernel {
    SharedKernel::new(format!("linear_mid_m{}", l.form()), SHARED)
}

fn mid_split() -> SharedKernel {
    SharedKernel::new("linear_mid_m_split".into(), SHARED)
}

pub(super) fn mid_m(lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
    let kernel = mid(l);
    let function = lowering.modules.shared_function(&kernel)?;
    let launch = Launch::new(&function, Dim::Fixed(l.tiles(TILE)), operands(l, l.factors(), 0));
    Ok(vec![launch.by(Dim::Rows { rows: l.y.rows, per: TILE }).with_shared(kernel.shared).early()])
}

pub(super) fn mid_m_split(lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
    let (partial, kernel) = (lowering.partial, mid_split());
    let function = lowering.modules.shared_function(&kernel)?;
    let args = l.factors().ptr(partial).rows(l.y.rows).int(l.n).int(l.k());
    let split = Launch::new(&function, Dim::Fixed(RANGES * l.n.div_ceil(TILE)), args)
        .by(Dim::Rows { rows: l.y.rows, per: TILE })
        .with_shared(kernel.shared);
    let args = operands(l, Args::new().ptr(partial), 0);
    let blocks = Dim::Tiles { rows: l.y.rows, cols: l.y.cols, per: MERGED, each: 1, most: usize::MAX };
    let function = lowering.function(&format!("linear_merge{}", l.form()))?;
    let merge = Launch::new(&function, blocks, args);
    Ok(vec![split.early(), merge.early()])
}
