//! A program as text: one line an op, weights by name, every value with its shape. It reads like
//! the model.

use std::fmt::{Display, Formatter, Result};

use super::{Node, Op, Program, ProgramOutput, Rows, RowsOf, ValueKind};
use crate::{ValueId, WeightId};

impl Display for Rows {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.times != 1 {
            write!(f, "{}x", self.times)?;
        }
        f.write_str(match self.of {
            RowsOf::Tokens => "Tokens",
            RowsOf::Outputs => "Outputs",
            RowsOf::Seqs => "Seqs",
        })
    }
}

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "program {} {{", self.name)?;
        for node in &self.nodes {
            writeln!(f, "  {}", self.line(node))?;
        }
        match self.output {
            Some(ProgramOutput::Logits(id)) => writeln!(f, "  output logits %{id}")?,
            Some(ProgramOutput::Hidden(id)) => writeln!(f, "  output hidden %{id}")?,
            None => {}
        }
        f.write_str("}\n")
    }
}

impl Program {
    /// One node as text, without indent or newline.
    pub fn line(&self, node: &Node) -> String {
        let ids = |ids: &[ValueId]| ids.iter().map(|id| format!("%{id}")).collect::<Vec<_>>().join(", ");
        let mut line = String::new();
        if !node.outputs.is_empty() {
            line += &format!("{} = ", ids(&node.outputs));
        }
        line += node.op.stem();
        line += &format!("({})", ids(&node.inputs));
        line += &self.details(&node.op);
        if let Some(&id) = node.outputs.first() {
            let value = self.value(id);
            let kind = match value.kind {
                ValueKind::Act => "",
                ValueKind::F32 => " f32",
                ValueKind::I32 => " i32",
            };
            line += &format!(" -> [{}, {}]{kind}", value.rows, value.cols);
            if let Some(label) = &value.label {
                line += &format!("  # {label}");
            }
        }
        line
    }

    /// What an op has beside its inputs.
    fn details(&self, op: &Op) -> String {
        let weight = |id: WeightId| {
            let decl = &self.weights[id.index()];
            let shape = decl.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
            format!(" {}[{shape}]", decl.name)
        };
        let mut text: String = op.weights().into_iter().map(weight).collect();
        match op {
            Op::RmsNorm { eps, .. } => text += &format!(" eps={eps:e}"),
            Op::SliceCols { start, len } => text += &format!(" {start}..{}", start + len),
            Op::Rope(spec) => text += &format!(" theta={:e} d={}", spec.theta, spec.head_dim),
            Op::KvAppend { kv } => text += &format!(" {kv}"),
            Op::PagedAttention { spec, kv } | Op::Attention { spec, kv, .. } => {
                text += &format!(" heads={}/{}x{} {kv}", spec.num_heads, spec.num_kv_heads, spec.head_dim);
                if let Some(window) = spec.window {
                    text += &format!(" window={window}");
                }
            }
            Op::TopK { k, renormalize } => {
                text += &format!(" k={k}{}", if *renormalize { " renormalized" } else { "" });
            }
            _ => {}
        }
        text
    }
}
