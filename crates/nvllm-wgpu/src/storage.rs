//! How weights are stored on the device, known before their bytes are: which rows of a weight lie
//! together, in which form, and what they want done to their input.

use std::ops::Range;

use nvllm_core::weight::ActQuant;
use nvllm_core::{Code, DType, Limits, Op, Program, Reason, TensorInfo, WeightDecl, WeightInfo};

use crate::coded::{CHUNK_BYTES, Form};

/// How rows are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Dense(DType),
    Coded(Form),
}

impl Store {
    /// Bytes of a row of `cols` elements, and of its scales.
    pub(crate) const fn row_bytes(&self, cols: usize) -> [usize; 2] {
        match self {
            Self::Dense(dtype) => [cols * dtype.size(), 0],
            Self::Coded(form) => form.row_bytes(),
        }
    }
}

/// Consecutive rows of a weight that are stored alike and see their input alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub store: Store,
    /// Columns; of a vector its elements, which are one row.
    pub cols: usize,
    pub act: Option<ActQuant>,
    /// Whether columns are stored in another order than the input has.
    pub permuted: bool,
    /// Of the weight.
    pub rows: Range<usize>,
    /// The parts that they are.
    pub parts: Range<usize>,
}

impl Extent {
    /// Whether the layer sees its input otherwise than it comes.
    pub(crate) const fn changes_input(&self) -> bool {
        self.permuted || self.act.is_some()
    }

    /// Whether rows are read chunk by chunk.
    pub(crate) fn is_wide(&self) -> bool {
        match self.store {
            Store::Dense(dtype) => (self.cols * dtype.size()).is_multiple_of(CHUNK_BYTES),
            Store::Coded(form) => form.shift().is_some(),
        }
    }

    /// Elements of a chunk.
    pub(crate) const fn per(&self) -> usize {
        match self.store {
            Store::Dense(dtype) => CHUNK_BYTES / dtype.size(),
            Store::Coded(form) => form.per(),
        }
    }

    /// The parameters of what reads rows by chunks where it can: pitch, blocks, group, shift.
    pub(crate) fn reader_params(&self) -> [usize; 4] {
        match self.store {
            Store::Dense(dtype) if self.is_wide() => [self.cols * dtype.size() / CHUNK_BYTES, 0, 1, 0],
            _ => self.by_elements(),
        }
    }

    /// Those of what reads element by element.
    pub(crate) fn by_elements(&self) -> [usize; 4] {
        match self.store {
            Store::Dense(_) => [self.cols, 0, 1, 0],
            Store::Coded(form) => [form.pitch(), form.blocks(), form.group, form.shift().unwrap_or(0)],
        }
    }

    /// Columns of the input that share a scale.
    pub(crate) fn input_group(&self) -> usize {
        match self.act {
            Some(ActQuant::DynGroupE4M3(group)) => group.min(self.cols).max(1),
            _ => self.cols,
        }
    }
}

/// The runs of rows of a weight. One that is dense is one run: in the dtype of its parts, or in f32
/// where they differ, which is exact. Vectors are f32. Of others neighbours of one format are
/// together, unless a column order or an input's scale belongs to one part alone.
///
/// Errors with the format that no shader reads.
pub(crate) fn extents(info: &WeightInfo) -> Result<Vec<Extent>, Reason> {
    let is_vector = info.parts.iter().any(|part| part.shape.len() < 2);
    let rows_of = |part: &TensorInfo| part.shape.iter().rev().skip(1).product::<usize>();
    let plain = info.plain();
    if is_vector || plain.is_ok() {
        let dtypes = plain?;
        let same = dtypes.windows(2).all(|pair| pair[0] == pair[1]);
        let dtype = dtypes.first().copied().filter(|_| same && !is_vector).unwrap_or(DType::F32);
        let lens = info.parts.iter().map(|part| part.shape.last().copied().unwrap_or(1));
        let (cols, rows) = if is_vector {
            (lens.sum(), 1)
        } else {
            (lens.max().unwrap_or(1), info.parts.iter().map(rows_of).sum())
        };
        let (store, parts) = (Store::Dense(dtype), 0..info.parts.len());
        return Ok(vec![Extent { store, cols, act: None, permuted: false, rows: 0..rows, parts }]);
    }
    let mut all: Vec<Extent> = Vec::new();
    for (at, part) in info.parts.iter().enumerate() {
        let (format, cols) = (part.format, part.shape.last().copied().unwrap_or(1));
        let store = match format.code {
            Code::Dense(dtype) => Store::Dense(dtype),
            _ => Store::Coded(Form::new(format, cols)?),
        };
        let (act, permuted) = (format.act, format.permuted);
        let alone = permuted || act.is_some_and(ActQuant::is_static);
        let start = all.last().map_or(0, |run| run.rows.end);
        let end = start + rows_of(part);
        let same = |run: &&mut Extent| !alone && run.store == store && run.act == act && !run.permuted;
        if let Some(run) = all.last_mut().filter(same) {
            (run.rows.end, run.parts.end) = (end, at + 1);
        } else {
            all.push(Extent { store, cols, act, permuted, rows: start..end, parts: at..at + 1 });
        }
    }
    Ok(all)
}

/// As [`extents`], with an error that names the weight.
pub(crate) fn extents_of(decl: &WeightDecl, info: &WeightInfo) -> nvllm_core::Result<Vec<Extent>> {
    extents(info).map_err(|reason| decl.refused("wgpu", reason))
}

/// Bytes of the largest input that the weights of `programs` want changed.
pub(crate) fn input_bytes(programs: &[Program], weights: &[WeightInfo], limits: &Limits) -> usize {
    let bytes = |program: &Program, node: &nvllm_core::program::Node| {
        let weight = match node.op {
            Op::Linear { weight, .. } | Op::LinearAdd { weight, .. } | Op::LinearSiluMul { weight, .. } => {
                weight
            }
            Op::ExpertLinear { weight } => weight,
            _ => return 0,
        };
        let runs = extents(&weights[weight.index()]).unwrap_or_default();
        let x = program.value(node.inputs[0]);
        let changes = runs.iter().any(Extent::changes_input);
        if changes { x.rows.max(limits).saturating_mul(x.cols).saturating_mul(size_of::<f32>()) } else { 0 }
    };
    let all = programs.iter().flat_map(|program| program.nodes.iter().map(move |node| (program, node)));
    all.map(|(program, node)| bytes(program, node)).max().unwrap_or(0)
}
