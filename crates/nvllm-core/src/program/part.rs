//! A part of a model as a model of its own: what runs one layer on given hidden states, on any
//! backend.

use super::{Op, Program, Recorder};
use crate::{CoreError, KvLayer, ModelSpec, PagedKv, Result, ValueId, WeightDecl, WeightId};

impl ModelSpec {
    /// The model that computes the labelled value `to` from `from` in the first entry program.
    ///
    /// It has the same values and labels. Its tokens are the rows of `table`, which stands for the
    /// value `from`; its output is `to`. Weights and layers of the KV cache that are not used are
    /// left out.
    ///
    /// Errors if the program has no such values, or what makes `to` reads what is before `from`.
    pub fn part(&self, from: &str, to: &str, table: WeightDecl) -> Result<Self> {
        let program = &self.programs[0];
        let bad = |problem: String| CoreError::BadProgram { program: program.name.clone(), problem };
        let find = |label: &str| {
            program.labelled(label).ok_or_else(|| bad(format!("has no value labelled `{label}`")))
        };
        let (from, to) = (find(from)?, find(to)?);
        let maker = |id: ValueId| program.nodes.iter().position(|node| node.outputs.contains(&id));
        let nodes = match (maker(from), maker(to)) {
            (Some(first), Some(last)) if first < last => &program.nodes[first + 1..=last],
            _ => return Err(bad("makes the end of this part before its beginning".into())),
        };
        let (mut weights, mut kept) = (vec![table], Vec::new());
        let (mut kv, mut layers) = (Vec::<PagedKv>::new(), Vec::new());
        for op in nodes.iter().map(|node| &node.op) {
            for id in op.weights() {
                if !kept.contains(&id) {
                    kept.push(id);
                    weights.push(self.weights[id.index()].clone());
                }
            }
            if let Some(layer) = cache_layer(op).filter(|layer| !layers.contains(layer)) {
                layers.push(layer);
                kv.push(PagedKv { num_layers: 1, ..self.kv[layer.group].clone() });
            }
        }
        let place =
            |id: WeightId| WeightId(1 + kept.iter().position(|&other| other == id).unwrap_or(0) as u32);
        let layer =
            |old| KvLayer { group: layers.iter().position(|&other| other == old).unwrap_or(0), layer: 0 };
        let mut recorder = Recorder::new("part", &weights, &kv);
        let mut renamed: Vec<Option<ValueId>> = vec![None; program.values.len()];
        let start = recorder.embed(WeightId(0));
        recorder.copy_marks(start, program.value(from));
        renamed[from.index()] = Some(start);
        for node in nodes {
            let inputs = node.inputs.iter().map(|id| renamed[id.index()]).collect::<Option<Vec<_>>>();
            let inputs = inputs.ok_or_else(|| bad("reads what is before this part".into()))?;
            let outputs: Vec<_> = node.outputs.iter().map(|&id| program.value(id).clone()).collect();
            let op = node.op.moved(place, layer);
            for (old, new) in node.outputs.iter().zip(recorder.copy_node(op, &inputs, &outputs)) {
                recorder.copy_marks(new, program.value(*old));
                renamed[old.index()] = Some(new);
            }
        }
        let end = renamed[to.index()].ok_or_else(|| bad("does not make the end of this part".into()))?;
        let rows = recorder.gather_rows(end);
        recorder.output_hidden(rows);
        let programs: Vec<Program> = vec![recorder.finish()?];
        let vocab_size = weights[0].num_rows();
        Ok(Self {
            weights,
            kv,
            programs,
            optional: Vec::new(),
            vocab_size,
            unused_tensors: Vec::new(),
            stacked: Vec::new(),
            ..self.clone()
        })
    }
}

/// The layer of the KV cache that an op touches.
const fn cache_layer(op: &Op) -> Option<KvLayer> {
    match op {
        Op::KvAppend { kv } | Op::PagedAttention { kv, .. } | Op::Attention { kv, .. } => Some(*kv),
        _ => None,
    }
}
