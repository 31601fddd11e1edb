//! Kernels of `linear` and `expert_linear`.

use nvllm_core::{DType, Limits, OrderId, WeightId};

use super::choice::{Way, choose, ways};
use super::{LANES, Lowering, Operand, c_type};
use crate::error::Result;
use crate::launch::{Args, Dim, Launch};
use crate::memory::Address;

/// A linear layer.
pub(crate) struct Linear {
    pub x: Operand,
    pub y: Operand,
    pub weight: Address,
    pub dtype: DType,
    /// f32 `[n]`, or 0.
    pub bias: Address,
}

/// Best first.
static TABLE: [Way<Linear>; 1] =
    [Way { order: LANES, takes: |_| true, most_rows: usize::MAX, launch: general }];

/// The order of a model whose weights are stored as its activations are.
pub(super) fn order(limits: &Limits) -> OrderId {
    let dtype = limits.activations.dtype();
    let operand = Operand { at: 0, dtype, rows: nvllm_core::Rows::TOKENS, cols: 1024 };
    let shape = Linear { x: operand, y: operand, weight: 0, dtype, bias: 0 };
    choose(&TABLE, &shape, limits.numerics).first().map_or(LANES, |way| way.order)
}

fn general(lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
    let name = format!("linear_general_{}_{}_{}", c_type(l.x.dtype), c_type(l.dtype), c_type(l.y.dtype));
    let args = lowering
        .extent(l.y.rows)
        .ptr(l.x.at)
        .ptr(l.weight)
        .ptr(l.bias)
        .ptr(l.y.at)
        .int(l.x.cols)
        .int(l.y.cols);
    let columns = Dim::Fixed(l.y.cols.div_ceil(8));
    let rows = Dim::Rows { rows: l.y.rows, per: 4 };
    Ok(vec![Launch::new(lowering.function(&name)?, columns, 256, args).by(rows)])
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
        let bias = bias.map_or(0, |id| self.vector(id));
        ways(self, &TABLE, &Linear { x, y, weight, dtype, bias })
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
