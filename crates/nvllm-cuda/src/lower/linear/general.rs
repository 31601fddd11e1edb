//! Kernels that take every shape and dtype.

use nvllm_core::WeightId;

use super::Linear;
use crate::error::Result;
use crate::kernels::expert_linear::general as experts;
use crate::kernels::linear::general::{BLOCK_COLS, ROWS};
use crate::launch::{Args, Dim, Launch};
use crate::lower::{Lowering, Operand, c_type};
use crate::weights::Matrix;

pub(super) fn general(lowering: &Lowering<'_>, l: &Linear) -> Result<Vec<Launch>> {
    let types = [c_type(l.x.dtype)?, c_type(l.dtype)?, c_type(l.y.dtype)?].join("_");
    let name = format!("linear{}_general_{types}", l.form());
    let args = lowering.extent(l.y.rows).ptr(l.x.at).ptr(l.weight).ptr(l.bias.map_or(0, |bias| bias.wide));
    let args = args.ptr(l.residual()).ptr(l.y.at).int(l.k()).int(l.y.cols);
    let columns = Dim::Fixed(l.y.cols.div_ceil(BLOCK_COLS));
    let rows = Dim::Rows { rows: l.y.rows, per: ROWS };
    Ok(vec![Launch::new(&lowering.function(&name)?, columns, args).by(rows)])
}

impl Lowering<'_> {
    pub(in crate::lower) fn expert_linear(
        &self,
        x: Operand,
        ids: Operand,
        weight: WeightId,
        y: Operand,
    ) -> Result<Vec<Launch>> {
        let (at, dtype) = match self.weights.get(weight) {
            Matrix::Dense(at, dtype) => (at, dtype),
            Matrix::Coded(runs) => return self.coded_experts([x, ids, y], runs),
        };
        let types = [c_type(x.dtype)?, c_type(dtype)?, c_type(y.dtype)?].join("_");
        let name = format!("expert_linear_general_{types}");
        // Each row of x serves as many consecutive ids as there are experts per token.
        let share = y.rows.times / x.rows.times;
        let args: Args =
            self.extent(y.rows).int(share).ptr(x.at).ptr(ids.at).ptr(at).ptr(y.at).int(x.cols).int(y.cols);
        let columns = Dim::Fixed(y.cols.div_ceil(experts::BLOCK_COLS));
        Ok(vec![Launch::new(&self.function(&name)?, Dim::each(y.rows), args).by(columns)])
    }
}
