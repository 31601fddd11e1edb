//! Ops that look at one row at a time.

use nvllm_core::{RowsOf, WeightId};

use super::{Lowering, Operand, dtype_code};
use crate::error::Result;
use crate::launch::{Args, Dim, Launch};

/// Threads for a row of so many columns.
const fn threads(cols: usize) -> u32 {
    let wide = cols.next_multiple_of(32);
    if wide > 256 { 256 } else { wide as u32 }
}

impl Lowering<'_> {
    pub(super) fn embed(&self, table: WeightId, y: Operand) -> Result<Launch> {
        let (at, dtype) = self.weights.get(table);
        let args = Args::new()
            .ptr(self.counts())
            .ptr(self.inputs.tokens.at(0))
            .ptr(at)
            .int(dtype_code(dtype))
            .typed(y)
            .int(y.cols);
        Ok(Launch::new(self.function("embed_general")?, Dim::each(y.rows), threads(y.cols), args))
    }

    pub(super) fn gather_rows(&self, x: Operand, y: Operand) -> Result<Launch> {
        let outputs = self.inputs.at(self.inputs.layout.outputs);
        let args = Args::new().ptr(self.counts()).ptr(outputs).typed(x).typed(y).int(y.cols);
        Ok(Launch::new(self.function("gather_rows_general")?, Dim::each(y.rows), threads(y.cols), args))
    }

    pub(super) fn rms_norm(&self, x: Operand, weight: WeightId, eps: f32, y: Operand) -> Result<Launch> {
        let n = self.program.weights[weight.index()].num_rows();
        let groups = x.cols / n;
        let args = self.extent(x.rows).typed(x).ptr(self.vector(weight)).f32(eps).typed(y).int(n).int(groups);
        // A function of n alone: so is the order of the sum.
        let block = if n <= 256 { 32 } else { 256 };
        let groups = Dim::Fixed(groups);
        Ok(Launch::new(self.function("rms_norm_general")?, Dim::each(x.rows), block, args).by(groups))
    }

    pub(super) fn add(&self, a: Operand, b: Operand, y: Operand) -> Result<Launch> {
        let args = self.extent(y.rows).typed(a).typed(b).typed(y).int(y.cols);
        Ok(Launch::new(self.function("add_general")?, Dim::each(y.rows), threads(y.cols), args))
    }

    pub(super) fn silu_mul(&self, x: Operand, y: Operand) -> Result<Launch> {
        let args = self.extent(y.rows).typed(x).typed(y).int(y.cols);
        Ok(Launch::new(self.function("silu_mul_general")?, Dim::each(y.rows), threads(y.cols), args))
    }

    pub(super) fn slice_cols(&self, x: Operand, start: usize, y: Operand) -> Result<Launch> {
        let args = self.extent(y.rows).typed(x).int(x.cols).int(start).typed(y).int(y.cols);
        Ok(Launch::new(self.function("slice_cols_general")?, Dim::each(y.rows), threads(y.cols), args))
    }

    pub(super) fn top_k(
        &self,
        logits: Operand,
        k: usize,
        renormalize: bool,
        [ids, weights]: [Operand; 2],
    ) -> Result<Launch> {
        let args = Args::new()
            .ptr(self.counts())
            .typed(logits)
            .int(logits.cols)
            .int(k)
            .int(usize::from(renormalize))
            .ptr(ids.at)
            .ptr(weights.at);
        Ok(Launch::new(self.function("top_k_general")?, Dim::each(logits.rows), 32, args))
    }

    pub(super) fn weighted_sum(&self, x: Operand, weights: Operand, y: Operand) -> Result<Launch> {
        let args = Args::new()
            .ptr(self.inputs.count(RowsOf::Tokens))
            .int(x.rows.times)
            .typed(x)
            .ptr(weights.at)
            .typed(y)
            .int(y.cols);
        Ok(Launch::new(self.function("weighted_sum_general")?, Dim::each(y.rows), threads(y.cols), args))
    }
}
