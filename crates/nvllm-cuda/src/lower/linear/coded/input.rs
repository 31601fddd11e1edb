//! The input of a linear layer as its coded weight sees it.

use nvllm_core::weight::ActQuant;
use nvllm_core::{DType, Limits, Op, Program, WeightInfo};

use super::block::forms;
use crate::coded::{Form, Run};
use crate::error::Result;
use crate::kernels::linear::input_quant::{INPUT_AS_IS, INPUT_E4M3, INPUT_I8};
use crate::kernels::rms_norm::norm_order::norm_cols;
use crate::launch::{Args, Dim, Launch};
use crate::lower::linear::few::Norm;
use crate::lower::{Lowering, Operand};
use crate::memory::Address;

/// The input as a run's kernel reads it.
pub(super) struct Input {
    pub x: Address,
    pub dtype: DType,
    /// Scales of its tokens or their groups; 0 if it has none.
    pub scales: Address,
    /// What each block does to it.
    pub norm: Norm,
    pub kind: InputKind,
}

impl Input {
    /// `x` as it lies there.
    pub(super) const fn of(x: Operand) -> Self {
        Self { x: x.at, dtype: x.dtype, scales: 0, norm: Norm::NONE, kind: InputKind::AsIs }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputKind {
    AsIs = INPUT_AS_IS as isize,
    I8 = INPUT_I8 as isize,
    E4M3 = INPUT_E4M3 as isize,
}

impl InputKind {
    pub(super) const fn new(form: &Form) -> Self {
        match form.act {
            None => Self::AsIs,
            Some(ActQuant::DynTokenI8 | ActQuant::StaticI8) => Self::I8,
            Some(_) => Self::E4M3,
        }
    }
}

/// Columns of the widest row that `coded_rows.cu` takes.
pub(super) const ROW_COLS: usize = norm_cols(16);

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

impl Lowering<'_> {
    /// The input of a run of any kernel: x itself, or what a launch makes of it.
    pub(super) fn coded_input(
        &self,
        x: Operand,
        run: &Run,
        as_codes: bool,
    ) -> Result<(Option<Launch>, Input)> {
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
    pub(super) fn coded_rows(&self, x: Operand, run: &Run, norm: Norm) -> Result<(Option<Launch>, Input)> {
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
}
