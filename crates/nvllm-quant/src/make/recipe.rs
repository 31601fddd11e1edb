//! Which tensors of a model are quantised.

use std::collections::{BTreeMap, HashSet};

use nvllm_core::{ModelSpec, Op, Program, WeightId};

use super::Format;

/// What the linear layers of a model become. Norms, biases and routers stay as they are, and so
/// does an embedding table that is not the head too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The linear layers between embeddings and head.
    pub layers: Format,
    /// The head; `None`: it stays. A table that is embeddings and head in one is quantised once,
    /// and both read it.
    pub head: Option<Format>,
}

impl Recipe {
    /// The format of each tensor of the checkpoint that is quantised, by name.
    pub fn formats(&self, spec: &ModelSpec) -> BTreeMap<String, Format> {
        let mut formats = BTreeMap::new();
        for program in &spec.programs {
            let heads = heads(program);
            for weight in linears(program) {
                let format = if heads.contains(&weight) { self.head } else { Some(self.layers) };
                let parts = spec.weights[weight.index()].parts.iter();
                formats.extend(parts.filter_map(|part| Some((part.source.clone(), format?))));
            }
        }
        formats
    }
}

/// The matrices of the linear layers, but for routers: what is multiplied to choose experts.
fn linears(program: &Program) -> Vec<WeightId> {
    let choosers = program.nodes.iter().filter(|node| matches!(node.op, Op::TopK { .. }));
    let scores: HashSet<_> = choosers.flat_map(|node| &node.inputs).collect();
    let others = program.nodes.iter().filter(|node| !node.outputs.iter().any(|id| scores.contains(id)));
    others.filter_map(|node| matrix(&node.op)).collect()
}

/// The matrices that make the program's output.
fn heads(program: &Program) -> HashSet<WeightId> {
    let output = program.output.map(|output| output.value());
    let last = program.nodes.iter().filter(|node| node.outputs.iter().any(|id| Some(*id) == output));
    last.filter_map(|node| matrix(&node.op)).collect()
}

/// The matrix of a linear op.
const fn matrix(op: &Op) -> Option<WeightId> {
    match op {
        Op::Linear { weight, .. }
        | Op::LinearAdd { weight, .. }
        | Op::LinearSiluMul { weight, .. }
        | Op::ExpertLinear { weight } => Some(*weight),
        _ => None,
    }
}
