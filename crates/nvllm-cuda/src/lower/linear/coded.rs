//! Kernels over coded weights: `coded_few.cu` and `coded_many.cu` for the formats that tensor cores
//! take in bf16, `coded_general.cu` for all. Where a format wants its input quantised, blocks of
//! `coded_few.cu` do that for a row or two, else `coded_rows.cu` before them, either with the norm
//! that comes before the layer; `coded_input.cu` does what they cannot, and another order.
//!
//! A weight has a launch for each of its runs of rows, which makes their columns of y.

use nvllm_core::weight::{ActQuant, PUBLIC};
use nvllm_core::{Activations, DType, Limits, Op, OrderId, Program, TensorInfo, WeightInfo};

use super::few::{NORM_COLS, NORM_ROWS, Norm};
use super::{DeviceLimits, Epilogue, LANES, Lowering, Operand, Parts};
use crate::coded::{self, Code, Form, Offset, Run};
use crate::error::Result;
use crate::kernels::expert_linear::coded as experts;
use crate::kernels::linear::coded_general as general;
use crate::kernels::linear::coded_order::{self as flags, COLS, range_len};
use crate::kernels::linear::coded_stage::stage_bytes;
use crate::kernels::linear::input_quant::{INPUT_AS_IS, INPUT_E4M3, INPUT_I8};
use crate::kernels::linear::{coded_few as few, coded_many as many};
use crate::kernels::rms_norm::norm_order::norm_cols;
use crate::launch::{Args, Dim, Launch};
use crate::lower::choice::Chosen;
use crate::lower::dtype_code;
use crate::memory::Address;
use crate::modules::SharedKernel;
use crate::weights::Matrix;

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

/// The input as a run's kernel reads it.
struct Input {
    x: Address,
    dtype: DType,
    /// Scales of its tokens or their groups; 0 if it has none.
    scales: Address,
    /// What each block does to it.
    norm: Norm,
    kind: InputKind,
}

impl Input {
    /// `x` as it lies there.
    const fn of(x: Operand) -> Self {
        Self { x: x.at, dtype: x.dtype, scales: 0, norm: Norm::NONE, kind: InputKind::AsIs }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputKind {
    AsIs = INPUT_AS_IS as isize,
    I8 = INPUT_I8 as isize,
    E4M3 = INPUT_E4M3 as isize,
}

impl InputKind {
    const fn new(form: &Form) -> Self {
        match form.act {
            None => Self::AsIs,
            Some(ActQuant::DynTokenI8 | ActQuant::StaticI8) => Self::I8,
            Some(_) => Self::E4M3,
        }
    }
}

/// Columns of the widest row that `coded_rows.cu` takes.
const ROW_COLS: usize = norm_cols(16);

/// A block of `coded_few.cu`: 16 or 32 rows of W in a tile, `rows` of x of which there is room for
/// `tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    /// 1 or 2.
    r: usize,
    tokens: usize,
    rows: usize,
}

impl Block {
    fn shared(self, form: &Form, slots: usize) -> usize {
        shared(form, [self.r, self.tokens, self.rows], slots)
    }

    /// Its kernel, with so many stages in a warp's ring.
    fn kernel(self, form: &Form, slots: usize) -> SharedKernel {
        let name = format!("linear_coded_few_{}{}_r{}_t{}", code_name(form), mode(form), self.r, self.tokens);
        SharedKernel::new(name, self.shared(form, slots))
    }
}

/// Whether `coded_few.cu` takes the form.
fn fast(form: &Form) -> bool {
    let unit = if form.bits() == 4 { 32 } else { 16 };
    // A stage copies the scales of at most 8 blocks, or of 4 if they have offsets.
    let least = if form.offset == Offset::None { unit } else { 32 };
    let blocks = form.group >= form.cols || form.group.is_power_of_two() && form.group >= least;
    let scaled = form.code == Code::E4M3 && form.input_group() == COLS && form.offset == Offset::None;
    // Two numbers have 16 bits of such a value: as a sum grows longer, what that costs it falls
    // below what its additions do.
    let exact = !is_split(form) || form.cols >= 128;
    form.cols.is_multiple_of(unit) && blocks && (form.input_groups() == 1 || scaled) && exact
}

/// Whether codes stand for values that are not exact in bf16, so that kernels take each as two.
fn is_split(form: &Form) -> bool {
    let exact = |value: &f32| value.to_bits().trailing_zeros() >= 16;
    form.table.is_some_and(|table| !table.values().iter().all(exact))
}

/// Columns that share a scale in a stage.
fn period(form: &Form) -> usize {
    if form.group >= form.cols { COLS } else { form.group.min(COLS) }
}

/// Most stages in a warp's ring of coded_few.cu.
const fn ring(tight: bool) -> usize {
    if tight { 3 } else { 4 }
}

/// Bytes of a stage of 16 r rows of W.
fn stage(form: &Form, r: usize) -> usize {
    stage_bytes(r, form.bits(), COLS / period(form), form.has_offsets())
}

/// Shared memory of a block with so many stages in a warp's ring.
fn shared(form: &Form, [r, tokens, rows]: [usize; 3], slots: usize) -> usize {
    let (grouped, table) = (form.input_groups() > 1, form.code == Code::Table);
    few::shared_bytes(r, tokens, rows, slots, stage(form, r), range_len(form.cols), grouped, table)
}

/// Shared memory of a block of coded_many.cu.
fn many_shared(form: &Form) -> usize {
    let (grouped, table) = (form.input_groups() > 1, form.code == Code::Table);
    many::shared_bytes(stage(form, 1), form.cols.div_ceil(COLS), grouped, table)
}

fn many_kernel(form: &Form) -> SharedKernel {
    let name = format!("linear_coded_many_{}{}", code_name(form), mode(form));
    SharedKernel::new(name, many_shared(form))
}

/// Every kernel of `coded_few.cu` and `coded_many.cu`, as weights of public formats with `cols`
/// columns would be launched by it, most shared memory first.
pub(super) fn kernels(cols: usize, tight: bool) -> Vec<SharedKernel> {
    let tiles =
        [(1, 8), (1, 16), (1, 32), (2, 8), (2, 16)].map(|(r, tokens)| Block { r, tokens, rows: tokens });
    let of = |form: &Form| {
        let few = tiles.map(|block| block.kernel(form, ring(tight)));
        few.into_iter().chain([many_kernel(form)]).collect::<Vec<_>>()
    };
    let formats =
        PUBLIC.map(|(_, format)| WeightInfo { parts: vec![TensorInfo { shape: vec![64, cols], format }] });
    let forms = formats.iter().flat_map(|info| forms(info).unwrap_or_default()).filter(fast);
    let mut all: Vec<_> = forms.flat_map(|form| of(&form)).collect();
    all.sort_by_key(|kernel| std::cmp::Reverse(kernel.shared));
    all
}

/// The block for steps of up to `most` rows and so many rows of W, in tiles of 32 where these fill
/// the device. None if not even one row of x fits.
fn block(form: &Form, most: usize, n: usize, gated: bool, device: &DeviceLimits) -> Option<Block> {
    let whole = [32, 16, 8].into_iter().filter(|&tokens| tokens == 8 || tokens / 2 < most);
    let rows = whole.map(|tokens| (tokens, tokens.min(most))).chain((1..8).rev().map(|rows| (8, rows)));
    // From three quarters of the multiprocessors on, a block's fewer barriers outweigh those that
    // rest.
    let wide = 4 * n.div_ceil(32) >= 3 * device.blocks && (!gated || n.is_multiple_of(32));
    let choices = rows.flat_map(|(tokens, rows)| [(2, tokens, rows), (1, tokens, rows)]);
    choices
        .filter(|&(r, tokens, _)| r == 1 || wide && tokens < 32)
        .map(|(r, tokens, rows)| Block { r, tokens, rows })
        .find(|block| block.shared(form, ring(device.tight)) + few::STATIC_SHARED <= device.shared)
}

/// The forms of a coded weight; none if it is dense.
fn forms(info: &WeightInfo) -> Option<Vec<Form>> {
    let coded = info.plain().is_err().then(|| coded::runs(info).ok()).flatten()?;
    Some(coded.into_iter().map(|run| run.form).collect())
}

/// Whether a gated layer over a coded weight runs as one: gate and up in one run, for one kernel.
pub(crate) fn runs_gated(info: &WeightInfo, limits: &Limits) -> bool {
    let one = matches!(coded::runs(info).as_deref(), Ok([run]) if fast(&run.form) && run.rows.len().is_multiple_of(16));
    one && limits.activations == Activations::Bf16
}

/// Bytes of inputs that the coded weights of `program` want changed.
pub(crate) fn input_bytes(program: &Program, weights: &[WeightInfo], limits: &Limits) -> usize {
    let bytes = |node: &nvllm_core::program::Node| {
        let weight = match node.op {
            Op::Linear { weight, .. } | Op::LinearAdd { weight, .. } | Op::LinearSiluMul { weight, .. } => {
                weight
            }
            Op::ExpertLinear { weight } => weight,
            _ => return 0,
        };
        let rows = program.value(node.inputs[0]).rows.max(limits);
        let one = |form: Form| {
            if form.changes_input() { scales_at(&form, rows) + scale_bytes(&form, rows) } else { 0 }
        };
        forms(&weights[weight.index()]).into_iter().flatten().map(one).max().unwrap_or(0)
    };
    program.nodes.iter().map(bytes).max().unwrap_or(0)
}

/// Where the scales of a changed input begin, behind its elements.
fn scales_at(form: &Form, rows: usize) -> usize {
    (rows * form.cols * DType::F32.size()).next_multiple_of(256)
}

fn scale_bytes(form: &Form, rows: usize) -> usize {
    rows * form.input_groups() * DType::F32.size()
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

    /// The input of a run of any kernel: x itself, or what a launch makes of it.
    fn coded_input(&self, x: Operand, run: &Run, as_codes: bool) -> Result<(Option<Launch>, Input)> {
        let form = &run.of.form;
        if !form.changes_input() {
            return Ok((None, Input::of(x)));
        }
        let kind = InputKind::new(form);
        let scales = if as_codes && kind != InputKind::AsIs { self.input_scales(x, form) } else { 0 };
        let args = self.extent(x.rows).typed(x)?.ptr(run.order()).int(kind as usize).f32(run.input_scale);
        let args = args.int(form.input_group()).ptr(self.partial).int(usize::from(as_codes));
        let function = self.function("linear_coded_input")?;
        let launch = Launch::new(&function, Dim::each(x.rows), args.ptr(scales).int(form.cols)).early();
        let dtype = if as_codes { DType::Bf16 } else { DType::F32 };
        Ok((Some(launch), Input { dtype, scales, ..Input::of(Operand { at: self.partial, ..x }) }))
    }

    /// The input of a tensor-core kernel: rows of x, or of their norm, quantised by a launch.
    fn coded_rows(&self, x: Operand, run: &Run, norm: Norm) -> Result<(Option<Launch>, Input)> {
        let form = &run.of.form;
        let scales = self.input_scales(x, form);
        let most = [1, 4, 16].map(norm_cols).into_iter().find(|&cols| form.cols <= cols);
        let name = format!("linear_coded_rows_{}", most.unwrap_or(ROW_COLS));
        let args = Args::new().ptr(x.at).ptr(norm.weight).f32(norm.eps).int(InputKind::new(form) as usize);
        let args = args.f32(run.input_scale).int(usize::from(form.input_groups() > 1));
        let args = args.ptr(self.partial).ptr(scales).int(form.cols);
        let launch = Launch::new(&self.function(&name)?, Dim::each(x.rows), args).early();
        Ok((Some(launch), Input { scales, ..Input::of(Operand { at: self.partial, ..x }) }))
    }

    /// Where the scales of an input that is quantised lie.
    fn input_scales(&self, x: Operand, form: &Form) -> Address {
        self.partial + scales_at(form, x.rows.max(self.limits)) as Address
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

/// The codes of a form, as kernels' names have them.
fn code_name(form: &Form) -> &'static str {
    match (form.code, form.table) {
        (Code::I8, _) => "i8",
        (Code::E4M3, _) => "e4m3",
        (Code::U4, _) => "u4",
        (Code::Table, _) if is_split(form) => "nf4",
        (Code::Table, _) => "lut4",
    }
}

/// What a block's end needs beside its scale, as kernels' names have it.
fn mode(form: &Form) -> &'static str {
    match (form.has_offsets(), form.input_groups() > 1) {
        (true, _) => "_sums",
        (_, true) => "_scaled",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::linear::layer::HOPPER;

    const TIGHT: DeviceLimits = DeviceLimits { blocks: 128, shared: 101_376, tight: true, wgmma: false };

    fn form(name: &str, cols: usize) -> Form {
        let (_, format) = *PUBLIC.iter().find(|(public, _)| *public == name).expect("a public format");
        let info = WeightInfo { parts: vec![TensorInfo { shape: vec![64, cols], format }] };
        coded::runs(&info).expect("it runs")[0].form
    }

    #[test]
    fn every_public_format_but_one_has_a_kernel_of_tensor_cores() {
        for (name, _) in PUBLIC {
            // Its blocks of 16 columns end inside a lane's 4-bit codes.
            assert_eq!(fast(&form(name, 4096)), name != "nvfp4", "{name}");
            assert!(!fast(&form(name, 4100)), "{name}");
            assert_eq!(fast(&form(name, 64)), !["nvfp4", "nf4", "fp4"].contains(&name), "{name}");
        }
    }

    #[test]
    fn a_block_fits_its_device_and_holds_no_more_rows_than_it_has_tokens() {
        for (name, _) in PUBLIC {
            for (device, cols) in [(HOPPER, 1024), (HOPPER, 12_288), (HOPPER, 28_672), (TIGHT, 4096)] {
                let form = form(name, cols);
                for most in BOUNDS {
                    for n in [64, 4096, 4112] {
                        let block = block(&form, most, n, true, &device).expect("one row fits");
                        let shared = block.shared(&form, ring(device.tight));
                        assert!(shared <= device.shared && (1..=block.tokens).contains(&block.rows));
                        assert!(block.rows <= most && (block.r == 1 || n == 4096), "{name}: {block:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_are_wide_where_they_fill_the_device() {
        let of = |n, most| {
            let block = block(&form("q8_0", 1024), most, n, false, &HOPPER).expect("it fits");
            (block.r, block.tokens, block.rows)
        };
        assert_eq!([of(1024, 1), of(4096, 1), of(4096, 16)], [(1, 8, 1), (2, 8, 1), (2, 16, 16)]);
        assert_eq!([of(4096, 32), of(4096, usize::MAX)], [(1, 32, 32), (1, 32, 32)]);
    }
}
