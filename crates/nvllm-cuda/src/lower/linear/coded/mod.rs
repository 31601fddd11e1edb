//! Kernels over coded weights: `coded_few.cu` and `coded_many.cu` for the formats that tensor cores
//! take in bf16, `coded_general.cu` for all. Where a format wants its input quantised, blocks of
//! `coded_few.cu` do that for a row or two, else `coded_rows.cu` before them, either with the norm
//! that comes before the layer; `coded_input.cu` does what they cannot, and another order.
//!
//! A weight has a launch for each of its runs of rows, which makes their columns of y.

use nvllm_core::{Activations, DType, Limits, OrderId, WeightInfo};

use super::few::{NORM_COLS, NORM_ROWS, Norm};
use super::{Epilogue, LANES, Lowering, Operand, Parts};
use crate::coded::{self, Form, Offset, Run};
use crate::error::Result;
use crate::kernels::expert_linear::coded as experts;
use crate::kernels::linear::coded_general as general;
use crate::kernels::linear::coded_many as many;
use crate::kernels::linear::coded_order as flags;
use crate::launch::{Args, Dim, Launch};
use crate::lower::choice::Chosen;
use crate::lower::dtype_code;
use crate::memory::Address;
use crate::modules::SharedKernel;
use crate::weights::Matrix;

pub(super) use block::kernels;
use block::{Block, block, fast, many_kernel, many_shared, ring};
pub(crate) use input::input_bytes;
use input::{Input, InputKind, ROW_COLS};

mod block;
mod input;

/// The order of `coded_few.cu` and `coded_many.cu`, as kernels/linear/coded_order.cuh has it.
const CODED8: OrderId = OrderId("linear.coded8");

/// Numbers of rows up to which a step has launches of its own: the fewer rows of x a block holds,
/// the more blocks run at once.
const BOUNDS: [usize; 7] = [1, 2, 4, 8, 16, 32, usize::MAX];

/// A linear layer over a coded weight.
pub(super) struct Layer<'a> {
    of: Parts,
    runs: &'a [Run],
}

/// Whether a gated layer over a coded weight runs as one: gate and up in one run, for one kernel.
pub(crate) fn runs_gated(info: &WeightInfo, limits: &Limits) -> bool {
    let one = matches!(coded::runs(info).as_deref(), Ok([run]) if fast(&run.form) && run.rows.len().is_multiple_of(16));
    one && limits.activations == Activations::Bf16
}

/// What kernels that take any format are given of a run.
pub(in crate::lower) fn any_format(args: Args, run: &Run) -> Args {
    let (form, [codes, scales, table]) = (&run.of.form, run.addresses());
    let args = args.ptr(codes).ptr(scales).ptr(table).int(form.code as usize).int(form.offset as usize);
    args.int(form.group).int(form.pitch()).int(form.blocks())
}

impl<'a> Lowering<'a> {
    /// The linear layer with which node `at` begins, if its weight is coded.
    pub(super) fn coded_layer(&self, at: usize) -> Option<Layer<'a>> {
        let of = self.parts(at)?;
        let Matrix::Coded(runs) = self.weights.get(of.weight) else { return None };
        Some(Layer { of, runs })
    }

    /// The launches of `expert_linear` over runs of coded experts.
    pub(super) fn coded_experts(&self, [x, ids, y]: [Operand; 3], runs: &[Run]) -> Result<Vec<Launch>> {
        let function = self.function("expert_linear_coded")?;
        let mut launches = Vec::new();
        // Each row of x serves as many consecutive ids as there are experts per token.
        let share = y.rows.times / x.rows.times;
        for run in runs {
            let (before, input) = self.coded_input(x, run, false)?;
            let args = self.extent(y.rows).int(share).ptr(input.x).int(dtype_code(input.dtype)?).ptr(ids.at);
            let args = any_format(args.int(run.of.rows.start).int(run.of.rows.len()), run);
            let args = args.typed(y)?.int(x.cols).int(y.cols);
            launches.extend(before);
            let columns = Dim::Fixed(y.cols.div_ceil(experts::BLOCK_COLS));
            launches.push(Launch::new(&function, Dim::each(y.rows), args).by(columns));
        }
        Ok(launches)
    }
}

impl Layer<'_> {
    /// What runs it, by the rows that it takes at most.
    pub(super) fn chosen(&self, lowering: &Lowering<'_>) -> Result<Vec<Chosen>> {
        self.up_to_each_bound(lowering, |run, most| self.run(lowering, run, most).map(Some))
    }

    /// What runs it with the norm of `x`, which comes before the layer, inside; none from the
    /// number of rows on for which some run's kernels cannot.
    pub(super) fn normed(&self, lowering: &Lowering<'_>, x: Operand, norm: Norm) -> Result<Vec<Chosen>> {
        self.up_to_each_bound(lowering, |run, most| self.fast_run(lowering, run, most, (x, norm)))
    }

    /// What `launches` gives for each run and bound, until it gives none.
    fn up_to_each_bound(
        &self,
        lowering: &Lowering<'_>,
        launches: impl Fn(&Run, usize) -> Result<Option<Vec<Launch>>>,
    ) -> Result<Vec<Chosen>> {
        let mut all = Vec::new();
        for most in BOUNDS {
            let mut of_bound = Vec::new();
            for run in self.runs {
                let Some(of_run) = launches(run, most)? else { return Ok(all) };
                of_bound.extend(of_run);
            }
            all.push(Chosen { most_rows: most, order: self.order(lowering, most), launches: of_bound });
        }
        Ok(all)
    }

    /// The order of all runs together.
    fn order(&self, lowering: &Lowering<'_>, most: usize) -> OrderId {
        let fast = |run: &Run| self.takes(&run.of.form) && self.block(lowering, run, most).is_some();
        if self.runs.iter().all(fast) { CODED8 } else { LANES }
    }

    /// The launches of one run.
    fn run(&self, lowering: &Lowering<'_>, run: &Run, most: usize) -> Result<Vec<Launch>> {
        if let Some(launches) = self.fast_run(lowering, run, most, (self.of.x, Norm::NONE))? {
            return Ok(launches);
        }
        let form = &run.of.form;
        let fast = self.takes(form) && self.block(lowering, run, most).is_some();
        let (before, input) = lowering.coded_input(self.of.x, run, fast)?;
        let launch = if fast {
            self.product(lowering, run, most, &input)?
        } else {
            self.general(lowering, run, &input)?
        };
        Ok(before.into_iter().chain([launch]).collect())
    }

    /// Those of one run by tensor cores, where blocks or `coded_rows.cu` do all that is done to
    /// `x`; None if they cannot.
    fn fast_run(
        &self,
        lowering: &Lowering<'_>,
        run: &Run,
        most: usize,
        (x, norm): (Operand, Norm),
    ) -> Result<Option<Vec<Launch>>> {
        let form = &run.of.form;
        let as_it_is = norm.weight == 0 && form.act.is_none();
        let in_blocks = most <= NORM_ROWS && (norm.weight == 0 || form.cols <= NORM_COLS);
        let in_rows = form.act.is_some() && form.cols <= ROW_COLS;
        let possible = self.takes(form) && !form.permuted && (as_it_is || in_blocks || in_rows);
        if !possible || self.block(lowering, run, most).is_none() {
            return Ok(None);
        }
        let (before, input) = if as_it_is {
            (None, Input::of(x))
        } else if in_blocks {
            (None, Input { norm, kind: InputKind::new(form), ..Input::of(x) })
        } else {
            lowering.coded_rows(x, run, norm)?
        };
        let launch = self.product(lowering, run, most, &input)?;
        Ok(Some(before.into_iter().chain([launch]).collect()))
    }

    /// The block of `coded_few.cu` for a run and so many rows.
    fn block(&self, lowering: &Lowering<'_>, run: &Run, most: usize) -> Option<Block> {
        let gated = self.of.epilogue == Epilogue::SiluMul;
        block(&run.of.form, most, run.of.rows.len(), gated, &lowering.device_limits())
    }

    /// The product of a run by tensor cores.
    fn product(&self, lowering: &Lowering<'_>, run: &Run, most: usize, input: &Input) -> Result<Launch> {
        let many = most > 32 && many_shared(&run.of.form) <= lowering.device_limits().shared;
        match self.block(lowering, run, most) {
            Some(block) if !many => self.few(lowering, run, input, block),
            _ => self.many(lowering, run, input),
        }
    }

    /// Address of what is added.
    fn residual(&self) -> Address {
        if let Epilogue::Add(at) = self.of.epilogue { at } else { 0 }
    }

    fn few(&self, lowering: &Lowering<'_>, run: &Run, input: &Input, block: Block) -> Result<Launch> {
        let (form, device) = (&run.of.form, lowering.device_limits());
        let tiles = run.of.rows.len().div_ceil(16 * block.r);
        let at_once = |slots: usize| -> Result<(SharedKernel, usize)> {
            let kernel = block.kernel(form, slots);
            let blocks = lowering.modules.blocks_at_once(&kernel)? * device.blocks;
            Ok((kernel, blocks))
        };
        // Where all tiles run at once, rings no longer than W leave room for the next kernel's
        // blocks: faster for a row or two, slower for more (bench/LOG.md).
        let mut slots = ring(device.tight);
        let short = if block.rows <= NORM_ROWS { slots.min(1 + form.cols.div_ceil(1024)) } else { slots };
        let (mut kernel, mut blocks) = at_once(short)?;
        if blocks >= tiles {
            slots = short;
        } else {
            (kernel, blocks) = at_once(slots)?;
        }
        let function = lowering.modules.shared_function(&kernel)?;
        let args = self.tensor_core_args(run, input, (block.rows, slots));
        let args = args.ptr(input.norm.weight).f32(input.norm.eps).f32(run.input_scale);
        let chunks = Dim::Rows { rows: self.of.y.rows, per: block.rows };
        let launch = Launch::new(&function, Dim::Fixed(tiles.min(blocks)), args).by(chunks);
        Ok(launch.with_shared(kernel.shared).early())
    }

    /// Whether the tensor-core kernels take a run in this form.
    fn takes(&self, form: &Form) -> bool {
        let bf16 = |operand: &Operand| operand.dtype == DType::Bf16;
        fast(form) && bf16(&self.of.x) && (self.residual() == 0 || bf16(&self.of.y))
    }

    fn many(&self, lowering: &Lowering<'_>, run: &Run, input: &Input) -> Result<Launch> {
        let kernel = many_kernel(&run.of.form);
        let function = lowering.modules.shared_function(&kernel)?;
        let tiles = Dim::Fixed(run.of.rows.len().div_ceil(many::TILE_ROWS));
        let launch = Launch::new(&function, tiles, self.tensor_core_args(run, input, (many::TOKENS, 0)));
        let chunks = Dim::Rows { rows: self.of.y.rows, per: many::TOKENS };
        Ok(launch.by(chunks).with_shared(kernel.shared).early())
    }

    /// What the tensor-core kernels are given, for blocks of so many rows of x and stages in
    /// a ring.
    fn tensor_core_args(&self, run: &Run, input: &Input, (block_rows, slots): (usize, usize)) -> Args {
        let (Parts { y, bias, .. }, form, rows) = (&self.of, &run.of.form, &run.of.rows);
        let gated = self.of.epilogue == Epilogue::SiluMul;
        let set = [
            (y.dtype == DType::F32, flags::OUT_F32),
            (true, flags::LATE),
            (gated, flags::GATED),
            (form.offset == Offset::Midpoint, flags::MIDPOINT),
            (form.offset == Offset::Int, flags::ZEROS),
            (form.offset == Offset::Float, flags::VALUES),
            (form.input_groups() > 1, flags::GROUPED),
            (input.kind == InputKind::I8, flags::TO_I8),
            (input.kind == InputKind::E4M3, flags::TO_E4M3),
        ];
        let flags = set.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum::<usize>();
        // A row of one block is that at any column.
        let shift = if form.group >= form.cols { 31 } else { form.group.ilog2() as usize };
        let [codes, scales, table] = run.addresses();
        let args = Args::new().ptr(codes).ptr(scales).ptr(table).ptr(input.x).ptr(input.scales);
        let args = args.ptr(bias.map_or(0, |bias| bias.wide)).ptr(self.residual()).ptr(y.at).rows(y.rows);
        let args = args.int(rows.len()).int(form.cols).int(shift).int(form.blocks()).int(flags);
        args.int(block_rows).int(slots).int(if gated { 0 } else { rows.start }).int(y.cols)
    }

    fn general(&self, lowering: &Lowering<'_>, run: &Run, input: &Input) -> Result<Launch> {
        let (Parts { y, bias, .. }, rows) = (&self.of, &run.of.rows);
        let args = lowering.extent(y.rows).ptr(input.x).int(dtype_code(input.dtype)?);
        let args = any_format(args, run).ptr(bias.map_or(0, |bias| bias.wide)).ptr(self.residual());
        let args = args.typed(*y)?.int(run.of.form.cols).int(rows.len()).int(rows.start).int(y.cols);
        let launch = Launch::new(
            &lowering.function("linear_coded_general")?,
            Dim::Fixed(rows.len().div_ceil(general::BLOCK_COLS)),
            args,
        );
        Ok(launch.by(Dim::Rows { rows: y.rows, per: general::ROWS }))
    }
}
