//! How a weight is stored: as runs of rows, each in one form.

use std::ops::Range;

use nvllm_core::weight::{ActQuant, Table};
use nvllm_core::{Reason, TensorInfo, WeightFormat, WeightInfo};

use crate::kernels::common::coded::{CODE_E4M3, CODE_I8, CODE_TABLE, CODE_U4};
use crate::kernels::common::coded::{OFFSET_FLOAT, OFFSET_INT, OFFSET_MIDPOINT, OFFSET_NONE};
use crate::kernels::linear::coded_input::MOST_GROUPS;

/// How an element is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    I8 = CODE_I8 as isize,
    E4M3 = CODE_E4M3 as isize,
    U4 = CODE_U4 as isize,
    Table = CODE_TABLE as isize,
}

/// What moves a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offset {
    None = OFFSET_NONE as isize,
    /// 4-bit codes around 8.
    Midpoint = OFFSET_MIDPOINT as isize,
    /// Zero points.
    Int = OFFSET_INT as isize,
    /// Values.
    Float = OFFSET_FLOAT as isize,
}

/// How a run of rows is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub code: Code,
    pub table: Option<Table>,
    pub offset: Offset,
    /// Columns of a block; all of them at most.
    pub group: usize,
    pub act: Option<ActQuant>,
    pub permuted: bool,
    /// Columns.
    pub cols: usize,
}

impl Form {
    /// That of a tensor.
    ///
    /// Errors if it has none.
    pub(super) fn new(info: &TensorInfo) -> std::result::Result<Self, Reason> {
        use nvllm_core::weight as core;
        let (format, cols) = (info.format, info.shape.last().copied().unwrap_or(1));
        let refused = |problem: &str| Reason(format!("its format is {format}; {problem}"));
        let (code, table) = match format.code {
            core::Code::I8 | core::Code::U5 | core::Code::U6 => (Code::I8, None),
            core::Code::E4M3 => (Code::E4M3, None),
            core::Code::U4 => (Code::U4, None),
            core::Code::Lut4(table) => (Code::Table, Some(table)),
            core::Code::Dense(_) => return Err(refused("dense weights run on inputs as they are")),
        };
        let Some(scales) = format.scales else { return Err(refused("codes run with scales")) };
        let offset = match format.offset {
            // Of wider codes it is subtracted before they are stored.
            core::Offset::Midpoint if code == Code::U4 => Offset::Midpoint,
            core::Offset::None | core::Offset::Midpoint => Offset::None,
            core::Offset::Int => Offset::Int,
            core::Offset::Float => Offset::Float,
        };
        let group = scales.block[1].min(cols).max(1);
        let form = Self { code, table, offset, group, act: format.act, permuted: format.permuted, cols };
        if form.input_groups() > MOST_GROUPS {
            return Err(refused(&format!("inputs have up to {MOST_GROUPS} groups")));
        }
        Ok(form)
    }

    /// Bits of an element.
    pub(crate) const fn bits(&self) -> usize {
        match self.code {
            Code::I8 | Code::E4M3 => 8,
            Code::U4 | Code::Table => 4,
        }
    }

    /// Bytes from one row of codes to the next.
    pub(crate) const fn pitch(&self) -> usize {
        (self.cols * self.bits()).div_ceil(8).next_multiple_of(16)
    }

    /// Blocks of a row.
    pub(crate) const fn blocks(&self) -> usize {
        self.cols.div_ceil(self.group)
    }

    /// Columns of the input that share a scale.
    pub(crate) fn input_group(&self) -> usize {
        if let Some(ActQuant::DynGroupE4M3(group)) = self.act {
            group.min(self.cols).max(1)
        } else {
            self.cols
        }
    }

    /// Scales of a row of the input.
    pub(crate) fn input_groups(&self) -> usize {
        self.cols.div_ceil(self.input_group())
    }

    /// Whether the layer sees its input otherwise than it comes.
    pub(crate) const fn changes_input(&self) -> bool {
        self.permuted || self.act.is_some()
    }

    /// Whether blocks have an offset beside their scale.
    pub(crate) const fn has_offsets(&self) -> bool {
        matches!(self.offset, Offset::Int | Offset::Float)
    }

    /// Bytes of codes and scales of so many rows, of the table and of the column order.
    pub(super) fn sizes(&self, rows: usize) -> [usize; 4] {
        let each = if self.has_offsets() { 8 } else { 4 };
        let table = if self.table.is_some() { 16 * size_of::<f32>() } else { 0 };
        let order = if self.permuted { self.cols * size_of::<u32>() } else { 0 };
        [rows * self.pitch(), rows.next_multiple_of(8) * self.blocks() * each, table, order]
    }
}

/// Consecutive rows of a weight in one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub form: Form,
    /// Of the weight.
    pub rows: Range<usize>,
    /// The parts that they are.
    pub parts: Range<usize>,
}

impl Extent {
    pub(crate) fn bytes(&self) -> usize {
        self.form.sizes(self.rows.len()).iter().sum()
    }
}

/// The runs of rows that a weight is held as: neighbours of one format together, unless a column
/// order or an input's scale belongs to one part alone.
///
/// Errors with the format that no kernel of this crate runs.
pub(crate) fn runs(info: &WeightInfo) -> std::result::Result<Vec<Extent>, Reason> {
    let mut runs: Vec<Extent> = Vec::new();
    let mut last: Option<WeightFormat> = None;
    for (at, part) in info.parts.iter().enumerate() {
        let form = Form::new(part)?;
        let rows = part.shape.iter().rev().skip(1).product::<usize>();
        let alone = part.format.permuted || part.format.act.is_some_and(ActQuant::is_static);
        if let Some(run) = runs.last_mut().filter(|_| !alone && last == Some(part.format)) {
            run.rows.end += rows;
            run.parts.end += 1;
        } else {
            let start = runs.last().map_or(0, |run| run.rows.end);
            runs.push(Extent { form, rows: start..start + rows, parts: at..at + 1 });
        }
        last = Some(part.format);
    }
    Ok(runs)
}
