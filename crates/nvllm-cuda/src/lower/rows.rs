//! Ops that look at one row at a time.

use nvllm_core::{DType, OrderId, RowsOf, WeightId};

use super::choice::{Chosen, KernelCandidate, any_rows, candidate_launches};
use super::linear::any_format;
use super::{LANES, Lowering, Operand, dtype_code};
use crate::coded::Run;
use crate::error::Result;
use crate::kernels::rms_norm::norm_order::norm_cols;
use crate::launch::{Args, Dim, Launch};
use crate::weights::{Matrix, Vector};

/// Threads for a row of so many columns, of a kernel that takes any number.
const fn threads(cols: usize) -> u32 {
    cols.next_multiple_of(32) as u32
}

/// RMS norm of each run of `n` columns.
pub(crate) struct RmsNorm {
    x: Operand,
    y: Operand,
    weight: Vector,
    n: usize,
    eps: f32,
}

/// The order of the fast kernels, as kernels/rms_norm/norm_order.cuh has it.
pub(super) const BLOCK128: OrderId = OrderId("norm.block128");

/// Best first.
static NORMS: [KernelCandidate<RmsNorm>; 2] = [
    KernelCandidate { order: BLOCK128, takes: RmsNorm::fast, most_rows: any_rows, launch: fast_norm },
    KernelCandidate { order: LANES, takes: |_| true, most_rows: any_rows, launch: general_norm },
];

impl RmsNorm {
    /// Whether the fast kernels take it: whole rows of 16-bit elements.
    fn fast(&self) -> bool {
        let bf16 = |operand: &Operand| operand.dtype == DType::Bf16;
        let whole = self.n == self.x.cols && self.n.is_multiple_of(8) && self.n <= norm_cols(16);
        whole && bf16(&self.x) && bf16(&self.y) && self.weight.narrow != 0
    }
}

fn fast_norm(lowering: &Lowering<'_>, norm: &RmsNorm) -> Result<Vec<Launch>> {
    let most = [1, 4, 16].map(norm_cols).into_iter().find(|&cols| norm.n <= cols);
    let name = format!("rms_norm_{}", most.unwrap_or(norm_cols(16)));
    // No add before it.
    let args = Args::new().ptr(norm.x.at).ptr(0).ptr(0).ptr(norm.weight.narrow).ptr(norm.y.at);
    let args = args.int(norm.n).f32(norm.eps);
    Ok(vec![Launch::new(&lowering.function(&name)?, Dim::each(norm.x.rows), args).early()])
}

fn general_norm(lowering: &Lowering<'_>, norm: &RmsNorm) -> Result<Vec<Launch>> {
    let RmsNorm { x, y, n, .. } = *norm;
    let groups = x.cols / n;
    let args =
        lowering.extent(x.rows).typed(x)?.ptr(norm.weight.wide).f32(norm.eps).typed(y)?.int(n).int(groups);
    // A function of n alone: so is the order of the sum.
    let threads = if n <= 256 { 32 } else { 256 };
    let launch = Launch::new(&lowering.function("rms_norm_general")?, Dim::each(x.rows), args);
    Ok(vec![launch.of_threads(threads).by(Dim::Fixed(groups))])
}

impl Lowering<'_> {
    /// `first`: no node comes before it, so that what it writes is read by no kernel of the step
    /// that may still run.
    pub(super) fn embed(&self, table: WeightId, y: Operand, first: bool) -> Result<Vec<Launch>> {
        let (at, dtype) = match self.weights.get(table) {
            Matrix::Dense(at, dtype) => (at, dtype),
            Matrix::Coded(runs) => return runs.iter().map(|run| self.embed_coded(run, y, first)).collect(),
        };
        let args = Args::new()
            .ptr(self.counts())
            .ptr(self.inputs.tokens.at(0))
            .ptr(at)
            .int(dtype_code(dtype)?)
            .typed(y)?
            .int(y.cols)
            .int(usize::from(first));
        let function = self.function("embed_general")?;
        Ok(vec![Launch::new(&function, Dim::each(y.rows), args).of_threads(threads(y.cols)).early()])
    }

    /// The tokens whose rows are in `run`.
    fn embed_coded(&self, run: &Run, y: Operand, first: bool) -> Result<Launch> {
        let rows = &run.of.rows;
        let args =
            Args::new().ptr(self.counts()).ptr(self.inputs.tokens.at(0)).int(rows.start).int(rows.len());
        let args = any_format(args, run).ptr(run.order()).typed(y)?.int(y.cols).int(usize::from(first));
        Ok(Launch::new(&self.function("embed_coded")?, Dim::each(y.rows), args)
            .of_threads(threads(y.cols))
            .early())
    }

    pub(super) fn gather_rows(&self, x: Operand, y: Operand) -> Result<Launch> {
        let outputs = self.inputs.at(self.inputs.layout.outputs);
        let args = Args::new().ptr(self.counts()).ptr(outputs).typed(x)?.typed(y)?.int(y.cols);
        Ok(Launch::new(&self.function("gather_rows_general")?, Dim::each(y.rows), args)
            .of_threads(threads(y.cols))
            .early())
    }

    pub(super) fn rms_norm(&self, x: Operand, weight: WeightId, eps: f32, y: Operand) -> Result<Vec<Chosen>> {
        let n = self.program.weights[weight.index()].num_rows();
        candidate_launches(self, &NORMS, &RmsNorm { x, y, weight: self.weights.vector(weight), n, eps })
    }

    pub(super) fn add(&self, a: Operand, b: Operand, y: Operand) -> Result<Launch> {
        let args = self.extent(y.rows).typed(a)?.typed(b)?.typed(y)?.int(y.cols);
        let function = self.function("add_general")?;
        let columns = Dim::Fixed(y.cols.div_ceil(function.threads as usize));
        Ok(Launch::new(&function, Dim::each(y.rows), args).of_threads(threads(y.cols)).by(columns).early())
    }

    pub(super) fn silu_mul(&self, x: Operand, y: Operand) -> Result<Launch> {
        let args = self.extent(y.rows).typed(x)?.typed(y)?.int(y.cols);
        let function = self.function("silu_mul_general")?;
        let columns = Dim::Fixed(y.cols.div_ceil(function.threads as usize));
        Ok(Launch::new(&function, Dim::each(y.rows), args).of_threads(threads(y.cols)).by(columns).early())
    }

    pub(super) fn slice_cols(&self, x: Operand, start: usize, y: Operand) -> Result<Launch> {
        let args = self.extent(y.rows).typed(x)?.int(x.cols).int(start).typed(y)?.int(y.cols);
        Ok(Launch::new(&self.function("slice_cols_general")?, Dim::each(y.rows), args)
            .of_threads(threads(y.cols)))
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
            .typed(logits)?
            .int(logits.cols)
            .int(k)
            .int(usize::from(renormalize))
            .ptr(ids.at)
            .ptr(weights.at);
        Ok(Launch::new(&self.function("top_k_general")?, Dim::each(logits.rows), args))
    }

    pub(super) fn weighted_sum(&self, x: Operand, weights: Operand, y: Operand) -> Result<Launch> {
        let args = Args::new()
            .ptr(self.inputs.count(RowsOf::Tokens))
            .int(x.rows.times)
            .typed(x)?
            .ptr(weights.at)
            .typed(y)?
            .int(y.cols);
        Ok(Launch::new(&self.function("weighted_sum_general")?, Dim::each(y.rows), args)
            .of_threads(threads(y.cols)))
    }
}
