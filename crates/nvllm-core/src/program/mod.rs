//! The tape: a flat list of ops over symbolic rows, recorded by a model and compiled by a backend.

mod alone;
mod cost;
mod display;
mod expand;
mod fuse;
mod neighbours;
mod op;
mod part;
mod plan;
mod recorder;
mod rope;

pub use cost::{Counts, OpCost};
pub use op::{AttentionSpec, Op, QkNorm};
pub use plan::{MemoryPlan, Place, PlanRules};
pub use recorder::{Projection, Recorder};
pub use rope::{RopeScaling, RopeSpec};

use crate::limits::MAX_BYTES;
use crate::{CoreError, DType, Limits, PagedKv, Result, Step, ValueId, WeightDecl};

/// What a row extent counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowsOf {
    /// All new tokens of the step.
    Tokens,
    /// Rows whose logits are wanted.
    Outputs,
    /// Sequences of the step.
    Seqs,
}

/// A symbolic row extent: `times` rows for each of `of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rows {
    /// What is counted.
    pub of: RowsOf,
    /// The constant factor (experts per token).
    pub times: usize,
}

impl Rows {
    /// One row a token.
    pub const TOKENS: Self = Self { of: RowsOf::Tokens, times: 1 };
    /// One row an output.
    pub const OUTPUTS: Self = Self { of: RowsOf::Outputs, times: 1 };

    /// The extent in a step of these counts.
    pub const fn resolve(self, num_tokens: usize, num_outputs: usize, num_seqs: usize) -> usize {
        self.times
            * match self.of {
                RowsOf::Tokens => num_tokens,
                RowsOf::Outputs => num_outputs,
                RowsOf::Seqs => num_seqs,
            }
    }

    /// The largest extent that `limits` admit.
    pub const fn max(self, limits: &Limits) -> usize {
        self.resolve(limits.step_tokens, limits.step_outputs, limits.seqs)
    }
}

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueKind {
    /// In the activation dtype of [`Limits`]; every op that makes it rounds to it.
    Act,
    /// Always f32: logits and router weights.
    F32,
    /// Always i32: expert ids and tokens.
    I32,
}

impl ValueKind {
    /// The storage dtype under `limits`.
    pub const fn dtype(self, limits: &Limits) -> DType {
        match self {
            Self::Act => limits.activations.dtype(),
            Self::F32 => DType::F32,
            Self::I32 => DType::I32,
        }
    }
}

/// One value: `[rows, cols]`, written once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Row extent.
    pub rows: Rows,
    /// Columns.
    pub cols: usize,
    /// Storage.
    pub kind: ValueKind,
    /// A name by which it can be kept and read back.
    pub label: Option<String>,
    /// Whether it lives to the end of the step, for [`Executable::kept`](crate::Executable::kept).
    pub keep: bool,
}

impl Value {
    /// Bytes at the largest extent that `limits` admit; `None` if the address space has not so
    /// many.
    pub fn max_bytes(&self, limits: &Limits) -> Option<usize> {
        let of = Rows { times: 1, ..self.rows }.max(limits);
        let factors = [self.rows.times, self.cols, self.kind.dtype(limits).size()];
        let bytes = factors.into_iter().try_fold(of, usize::checked_mul)?;
        (bytes <= MAX_BYTES).then_some(bytes)
    }
}

/// One application of an op.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The op.
    pub op: Op,
    /// Values read.
    pub inputs: Vec<ValueId>,
    /// Values written.
    pub outputs: Vec<ValueId>,
}

/// What a program hands out of each output row: `[Outputs, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramOutput {
    /// Logits `[Outputs, vocab]` f32: its rows can be sampled and scored.
    Logits(ValueId),
    /// Hidden states `[Outputs, n]` in any dtype: its rows are only handed out.
    Hidden(ValueId),
}

impl ProgramOutput {
    /// The value.
    pub const fn value(self) -> ValueId {
        match self {
            Self::Logits(id) | Self::Hidden(id) => id,
        }
    }

    /// The same of another value.
    const fn of(self, id: ValueId) -> Self {
        match self {
            Self::Logits(_) => Self::Logits(id),
            Self::Hidden(_) => Self::Hidden(id),
        }
    }
}

/// A recorded program.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Entry name (`generate`).
    pub name: String,
    /// All values, by id.
    pub values: Vec<Value>,
    /// All nodes, in execution order.
    pub nodes: Vec<Node>,
    /// What is handed out of each output row, if anything is.
    pub output: Option<ProgramOutput>,
    /// The weights that ids refer to (declarations only).
    pub weights: Vec<WeightDecl>,
    /// The KV groups that layers refer to.
    pub kv: Vec<PagedKv>,
}

impl Program {
    /// The value behind an id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The value with this label.
    pub fn labelled(&self, label: &str) -> Option<ValueId> {
        self.values.iter().position(|v| v.label.as_deref() == Some(label)).map(|i| ValueId(i as u32))
    }

    /// The logits that the sampler reads, if the program's output is logits.
    pub fn logits(&self) -> Option<ValueId> {
        match self.output {
            Some(ProgramOutput::Logits(id)) => Some(id),
            Some(ProgramOutput::Hidden(_)) | None => None,
        }
    }

    /// What a node writes, but ids.
    pub fn number_outputs(&self, node: usize) -> impl Iterator<Item = ValueId> + '_ {
        let outputs = self.nodes[node].outputs.iter().copied();
        outputs.filter(|&id| self.value(id).kind != ValueKind::I32)
    }

    /// Errors if `step` wants of its rows what this program does not make.
    pub fn check_outputs(&self, step: &Step) -> Result<()> {
        let mut rows = step.seqs.iter().flat_map(|seq| &seq.outputs);
        if self.logits().is_some() || !rows.any(|row| row.sample || row.scored()) {
            return Ok(());
        }
        let problem = format!("samples or scores rows of program `{}`, which makes no logits", self.name);
        Err(CoreError::step(step.id, problem))
    }

    /// The value with this label, if it is kept.
    pub fn kept(&self, label: &str) -> Option<ValueId> {
        self.labelled(label).filter(|&id| self.value(id).keep)
    }

    /// Keeps the labelled values alive to the end of every step. False if there is no such label.
    pub fn keep(&mut self, label: &str) -> bool {
        let Some(id) = self.labelled(label) else { return false };
        self.values[id.index()].keep = true;
        true
    }

    /// For each value the first and last node that touches it; kept values and the output last to
    /// the end.
    pub fn lifetimes(&self) -> Vec<(usize, usize)> {
        let mut spans = vec![(usize::MAX, 0); self.values.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            for id in node.inputs.iter().chain(&node.outputs) {
                let span = &mut spans[id.index()];
                *span = (span.0.min(at), at);
            }
        }
        let output = self.output.map(|output| output.value().index());
        for (id, (span, value)) in spans.iter_mut().zip(&self.values).enumerate() {
            if value.keep || output == Some(id) {
                span.1 = self.nodes.len();
            }
        }
        spans
    }
}
