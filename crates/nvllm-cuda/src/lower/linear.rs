//! Kernels of `linear` and `expert_linear`.

use nvllm_core::{DType, Limits, OrderId, WeightId};

use super::choice::{Way, choose, ways};
use super::{LANES, Lowering, Operand, c_type};
use crate::error::Result;
use crate::launch::{Args, Dim, Launch};
use crate::memory::Address;
use crate::weights::Vector;

/// The order of every fast kernel, as kernels/linear/linear_order.cuh has it.
const SPLIT8: OrderId = OrderId("linear.split8");

/// Rows at most of `mid_m.cu`.
const MID_ROWS: usize = 128;

/// Columns from which `mid_m.cu` has tiles enough without cutting K.
const WHOLE_COLS: usize = 4096;

/// A linear layer on a device.
pub(crate) struct Linear {
    pub x: Operand,
    pub y: Operand,
    pub weight: Address,
    pub dtype: DType,
    pub bias: Option<Vector>,
    pub room: Room,
}

/// What the choice of a kernel asks of the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Multiprocessors.
    pub blocks: usize,
    /// Shared memory of one block, in bytes.
    pub shared: usize,
    /// As `TIGHT` in prelude.cuh.
    pub tight: bool,
}

impl Linear {
    const fn k(&self) -> usize {
        self.x.cols
    }

    const fn n(&self) -> usize {
        self.y.cols
    }

    /// Whether the fast kernels take it: 16-bit operands, K in runs of 16 bytes.
    fn fast(&self) -> bool {
        let bf16 = |dtype| dtype == DType::Bf16;
        bf16(self.x.dtype)
            && bf16(self.dtype)
            && self.k().is_multiple_of(8)
            && self.bias.is_none_or(|bias| bias.narrow != 0)
    }

    /// Address of the bias as the fast kernels read it.
    fn narrow_bias(&self) -> Address {
        self.bias.map_or(0, |bias| bias.narrow)
    }

    fn out_f32(&self) -> usize {
        usize::from(self.y.dtype == DType::F32)
    }

    /// Columns of one of the 8 ranges into which the order cuts K.
    const fn range(&self) -> usize {
        self.k().div_ceil(512) * 64
    }
}

/// Best first.
static TABLE: [Way<Linear>; 8] = [
    Way {
        order: SPLIT8,
        takes: |l| l.fast() && small(l, 8).is_some(),
        most_rows: 8,
        launch: |lowering, l| small_m(lowering, l, 8),
    },
    Way {
        order: SPLIT8,
        takes: |l| l.fast() && small(l, 16).is_some(),
        most_rows: 16,
        launch: |lowering, l| small_m(lowering, l, 16),
    },
    Way {
        order: SPLIT8,
        takes: |l| l.fast() && l.k() <= 2048 && l.n() < 8192 && small(l, 32).is_some(),
        most_rows: 32,
        launch: |lowering, l| small_m(lowering, l, 32),
    },
    Way {
        order: SPLIT8,
        takes: |l| l.fast() && l.n().is_multiple_of(8) && l.n() < WHOLE_COLS,
        most_rows: MID_ROWS,
        launch: mid_m_split,
    },
    Way { order: SPLIT8, takes: |l| l.fast() && l.n().is_multiple_of(8), most_rows: MID_ROWS, launch: mid_m },
    Way {
        order: SPLIT8,
        takes: Linear::fast,
        most_rows: 256,
        launch: |lowering, l| tensor_core(lowering, l, 64),
    },
    Way {
        order: SPLIT8,
        takes: Linear::fast,
        most_rows: usize::MAX,
        launch: |lowering, l| tensor_core(lowering, l, 128),
    },
    Way { order: LANES, takes: |_| true, most_rows: usize::MAX, launch: general },
];

/// The order of a model whose weights are stored as its activations are.
pub(super) fn order(limits: &Limits) -> OrderId {
    let dtype = limits.activations.dtype();
    let operand = Operand { at: 0, dtype, rows: nvllm_core::Rows::TOKENS, cols: 1024 };
    let room = Room { blocks: 1, shared: 0, tight: false };
    let shape = Linear { x: operand, y: operand, weight: 0, dtype, bias: None, room };
    choose(&TABLE, &shape, limits.numerics).last().map_or(LANES, |way| way.order)
}

/// Bytes of partial sums that a layer with `n` columns may need, for at most `rows` rows.
pub(crate) fn partial_bytes(n: usize, rows: usize) -> usize {
    if n < WHOLE_COLS { 8 * rows.min(MID_ROWS) * n * size_of::<f32>() } else { 0 }
}

fn general(lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
    let name = format!("linear_general_{}_{}_{}", c_type(l.x.dtype), c_type(l.dtype), c_type(l.y.dtype));
    let args = lowering
        .extent(l.y.rows)
        .ptr(l.x.at)
        .ptr(l.weight)
        .ptr(l.bias.map_or(0, |bias| bias.wide))
        .ptr(l.y.at)
        .int(l.k())
        .int(l.n());
    let columns = Dim::Fixed(l.n().div_ceil(8));
    let rows = Dim::Rows { rows: l.y.rows, per: 4 };
    Ok(vec![Launch::new(lowering.function(&name)?, columns, 256, args).by(rows)])
}

/// How `small_m.cu` goes through W.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Small {
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
fn small(l: &Linear, tokens: usize) -> Option<Small> {
    let fits = |way: &Small| way.shared(l, tokens) <= l.room.shared;
    let covers = |rows: &usize| l.n().div_ceil(*rows) <= l.room.blocks;
    let resident = [16, 32, 48].into_iter().filter(covers).map(Small::Resident).find(fits);
    resident.or_else(|| Some(Small::Stream).filter(fits))
}

fn small_m(lowering: &Lowering<'_>, l: &Linear, tokens: usize) -> Result<Vec<Launch>> {
    let way = small(l, tokens).unwrap_or(Small::Stream);
    let shared = way.shared(l, tokens) as u32;
    let tiles = l.n().div_ceil(way.tile_rows());
    let (name, grid) = match way {
        Small::Resident(rows) => (format!("linear_small_m_r{rows}_t{tokens}"), tiles),
        Small::Stream => {
            let name = format!("linear_small_m_stream_t{tokens}");
            let at_once = lowering.modules.blocks_at_once(&name, 256, shared)?;
            (name, tiles.min(at_once * l.room.blocks))
        }
    };
    // No norm in front of it.
    let args = operands(l).int(l.out_f32()).ptr(0).f32(0.0);
    let function = lowering.modules.function_with(&name, shared)?;
    Ok(vec![Launch::new(function, Dim::Fixed(grid), 256, args).with_shared(shared).early()])
}

/// Addresses and extents as all fast kernels take them; no residual.
fn operands(l: &Linear) -> Args {
    let args = Args::new().ptr(l.weight).ptr(l.x.at).ptr(l.narrow_bias()).ptr(0).ptr(l.y.at);
    args.rows(l.y.rows).int(l.n()).int(l.k())
}

/// Shared memory of `mid_m.cu`: a ring of 4 stages.
const MID_SHARED: u32 = 65_536;

fn mid_m(lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
    let function = lowering.modules.function_with("linear_mid_m", MID_SHARED)?;
    let tiles = Dim::Fixed(l.n().div_ceil(64));
    let launch = Launch::new(function, tiles, 128, operands(l).int(l.out_f32()));
    Ok(vec![launch.by(Dim::Rows { rows: l.y.rows, per: 64 }).with_shared(MID_SHARED).early()])
}

fn mid_m_split(lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
    let partial = lowering.partial;
    let function = lowering.modules.function_with("linear_mid_m_split", MID_SHARED)?;
    let args = Args::new().ptr(l.weight).ptr(l.x.at).ptr(partial).rows(l.y.rows).int(l.n()).int(l.k());
    let split = Launch::new(function, Dim::Fixed(8 * l.n().div_ceil(64)), 128, args)
        .by(Dim::Rows { rows: l.y.rows, per: 64 })
        .with_shared(MID_SHARED);
    let args = Args::new().ptr(partial).ptr(l.narrow_bias()).ptr(0).ptr(l.y.at);
    let args = args.rows(l.y.rows).int(l.n()).int(l.k()).int(l.out_f32());
    let blocks = Dim::Tiles { rows: l.y.rows, cols: l.n(), per: 1024, each: 1, most: usize::MAX };
    let merge = Launch::new(lowering.function("linear_merge")?, blocks, 256, args);
    Ok(vec![split.early(), merge.early()])
}

fn tensor_core(lowering: &Lowering<'_>, l: &Linear, tokens: usize) -> Result<Vec<Launch>> {
    let stages = if l.room.tight { 2 } else { 4 };
    let shared = (stages * (128 + tokens) * 128 + 8 * 16 * 68 * 4) as u32;
    let function = lowering.modules.function_with(&format!("linear_tensor_core_t{tokens}"), shared)?;
    let (each, most) = (l.n().div_ceil(128), l.room.blocks);
    let blocks = Dim::Tiles { rows: l.y.rows, cols: 1, per: tokens, each, most };
    let args = operands(l).int(l.out_f32());
    Ok(vec![Launch::new(function, blocks, 256, args).with_shared(shared).early()])
}

impl Lowering<'_> {
    pub(super) fn linear(
        &self,
        x: Operand,
        weight: WeightId,
        bias: Option<WeightId>,
        y: Operand,
    ) -> Result<Vec<(usize, Vec<Launch>)>> {
        let (weight, dtype) = self.weights.get(weight);
        let bias = bias.map(|id| self.weights.vector(id));
        ways(self, &TABLE, &Linear { x, y, weight, dtype, bias, room: self.room() })
    }

    /// What the device has room for.
    fn room(&self) -> Room {
        let facts = self.modules.facts();
        Room { blocks: facts.multiprocessors, shared: facts.block_shared_bytes, tight: self.modules.tight() }
    }

    pub(super) fn expert_linear(
        &self,
        x: Operand,
        ids: Operand,
        weight: WeightId,
        y: Operand,
    ) -> Result<Launch> {
        let (at, dtype) = self.weights.get(weight);
        let name = format!("expert_linear_general_{}_{}_{}", c_type(x.dtype), c_type(dtype), c_type(y.dtype));
        // Each row of x serves as many consecutive ids as there are experts per token.
        let share = y.rows.times / x.rows.times;
        let args: Args =
            self.extent(y.rows).int(share).ptr(x.at).ptr(ids.at).ptr(at).ptr(y.at).int(x.cols).int(y.cols);
        Ok(Launch::new(self.function(&name)?, Dim::each(y.rows), 256, args)
            .by(Dim::Fixed(y.cols.div_ceil(8))))
    }
}

#[cfg(test)]
mod tests {
    use nvllm_core::{Numerics, Rows};

    use super::*;

    /// An H100 or H200.
    const HOPPER: Room = Room { blocks: 132, shared: 232_448, tight: false };

    fn layer(k: usize, n: usize, dtype: DType) -> Linear {
        let x = Operand { at: 0, dtype, rows: Rows::TOKENS, cols: k };
        let y = Operand { cols: n, ..x };
        Linear { x, y, weight: 0, dtype, bias: None, room: HOPPER }
    }

    fn rows(l: &Linear) -> Vec<(&'static str, usize)> {
        choose(&TABLE, l, Numerics::Invariant).into_iter().map(|w| (w.order.0, w.most_rows)).collect()
    }

    #[test]
    fn every_shape_has_one_order_from_one_row_to_many() {
        let all = |order, most: &[usize]| most.iter().map(|&most| (order, most)).collect::<Vec<_>>();
        let (fast, slow) = (SPLIT8.0, LANES.0);
        assert_eq!(rows(&layer(1024, 1024, DType::Bf16)), all(fast, &[8, 16, 32, 128, 256, usize::MAX]));
        assert_eq!(rows(&layer(3072, 1024, DType::Bf16)), all(fast, &[8, 16, 128, 256, usize::MAX]));
        // Columns that no run of 16 bytes covers; then a K whose rows of x fill a block's shared memory.
        assert_eq!(rows(&layer(1024, 151_935, DType::Bf16)), all(fast, &[8, 16, 256, usize::MAX]));
        assert_eq!(rows(&layer(16_384, 4096, DType::Bf16)), all(fast, &[128, 256, usize::MAX]));
        assert_eq!(rows(&layer(1020, 1024, DType::Bf16)), all(slow, &[usize::MAX]));
        assert_eq!(rows(&layer(1024, 1024, DType::F32)), all(slow, &[usize::MAX]));
        let wide_bias = Some(Vector { wide: 1, narrow: 0 });
        assert_eq!(rows(&Linear { bias: wide_bias, ..layer(1024, 1024, DType::Bf16) }).len(), 1);
    }

    #[test]
    fn weights_are_resident_where_one_tile_a_multiprocessor_covers_them() {
        let way = |k, n| small(&layer(k, n, DType::Bf16), 8);
        assert_eq!(way(2048, 1024), Some(Small::Resident(16)));
        assert_eq!(way(1024, 4096), Some(Small::Resident(32)));
        assert_eq!(way(1024, 6144), Some(Small::Resident(48)));
        assert_eq!(way(1024, 151_936), Some(Small::Stream));
    }
}
