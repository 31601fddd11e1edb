//! Which tensors of a model are quantised.

use std::collections::{BTreeMap, HashSet};

use nvllm_core::{ModelSpec, Op, Program, ProgramOutput, WeightId};

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

    /// What a checkpoint of the result holds, in the order of the model's layers, for readers that
    /// know a quantised head as a module of its own: beside a table that is embeddings and head in
    /// one stands the quantised head.
    pub fn outputs(&self, spec: &ModelSpec) -> Vec<Output> {
        let (mut outputs, formats, tables) = (Vec::new(), self.formats(spec), tables(spec));
        for (at, decl) in spec.weights.iter().enumerate() {
            for part in &decl.parts {
                let format = formats.get(&part.source).copied();
                let is_table = tables.contains(&WeightId(at as u32));
                let output =
                    |name: &str, format| Output { name: name.into(), source: part.source.clone(), format };
                outputs.push(output(&part.source, format.filter(|_| !is_table)));
                if is_table && format.is_some() {
                    outputs.push(output(HEAD, format));
                }
            }
        }
        outputs
    }

    /// The modules of linear layers that stay dense, as other engines call them.
    pub fn dense_modules(&self, spec: &ModelSpec) -> Vec<String> {
        let (formats, tables) = (self.formats(spec), tables(spec));
        let mut modules = Vec::new();
        for op in spec.programs.iter().flat_map(|program| &program.nodes).map(|node| &node.op) {
            let Some(id) = matrix(op) else { continue };
            for part in &spec.weights[id.index()].parts {
                let name = if tables.contains(&id) { HEAD } else { part.source.as_str() };
                let module = name.strip_suffix(".weight").unwrap_or(name).to_owned();
                if !formats.contains_key(&part.source) && !modules.contains(&module) {
                    modules.push(module);
                }
            }
        }
        modules
    }
}

/// A tensor of a checkpoint that is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name in the new checkpoint.
    pub name: String,
    /// The tensor that it is made of.
    pub source: String,
    /// What it becomes; `None`: it stays as it is.
    pub format: Option<Format>,
}

/// The name of the head's matrix in checkpoints.
const HEAD: &str = "lm_head.weight";

/// The tables that embeddings are read from.
fn tables(spec: &ModelSpec) -> HashSet<WeightId> {
    let nodes = spec.programs.iter().flat_map(|program| &program.nodes);
    let table = |op: &Op| if let Op::Embed { table } = op { Some(*table) } else { None };
    nodes.filter_map(|node| table(&node.op)).collect()
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
    let output = program.output.map(ProgramOutput::value);
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
