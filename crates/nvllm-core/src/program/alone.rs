//! One op of a model as a model of its own: what checks and times an op by itself, in the shapes
//! that a real model has.

use super::{Op, Program, Recorder, Rows, ValueKind};
use crate::{CoreError, KvLayer, ModelSpec, PagedKv, Result, ValueId, WeightDecl, WeightId};

impl ModelSpec {
    /// The model that runs the op of node `node` of the first entry program, `copies` times, each
    /// over weights and a layer of the KV cache of its own.
    ///
    /// Its activations are rows of the `tables`, one for each value, that `table` declares by
    /// number and columns; they are the first weights, and tokens select their rows. What is no
    /// activation with one row a token or an output (router logits, chosen experts) is made as the
    /// program makes it, and attention to a cache follows the op that writes to it. Weights are
    /// named as the model's with the number of the copy behind: `layers.0.qkv.1`. There is no
    /// output, and no value is named.
    ///
    /// Errors if there is no such node.
    pub fn alone(
        &self,
        node: usize,
        copies: usize,
        table: impl Fn(usize, usize) -> WeightDecl,
    ) -> Result<Self> {
        let program = &self.programs[0];
        let nodes = needed(program, node).ok_or_else(|| CoreError::BadProgram {
            program: program.name.clone(),
            problem: format!("has no op {node} that could run alone"),
        })?;
        let inputs = inputs(program, &nodes);
        let (mut used, mut layer) = (Vec::<WeightId>::new(), None);
        for op in nodes.iter().map(|&at| &program.nodes[at].op) {
            for id in op.weights() {
                if !used.contains(&id) {
                    used.push(id);
                }
            }
            layer = layer.or(op.kv());
        }
        let mut weights: Vec<_> =
            inputs.iter().enumerate().map(|(at, &id)| table(at, program.value(id).cols)).collect();
        let copied = |copy: usize, id: &WeightId| {
            let mut decl = self.weights[id.index()].clone();
            decl.name = format!("{}.{copy}", decl.name);
            decl.parts.iter_mut().for_each(|part| part.source = format!("{}.{copy}", part.source));
            decl
        };
        weights.extend((0..copies).flat_map(|copy| used.iter().map(move |id| copied(copy, id))));
        let group =
            layer.map(|layer: KvLayer| PagedKv { num_layers: copies, ..self.kv[layer.group].clone() });
        let kv: Vec<PagedKv> = group.into_iter().collect();
        let mut recorder = Recorder::new(&program.name, &weights, &kv);
        let mut made: Vec<Option<ValueId>> = vec![None; program.values.len()];
        for (at, id) in inputs.iter().enumerate() {
            let rows = recorder.embed(WeightId(at as u32));
            let outputs = program.value(*id).rows == Rows::OUTPUTS;
            made[id.index()] = Some(if outputs { recorder.gather_rows(rows) } else { rows });
        }
        for copy in 0..copies {
            let place = |id: WeightId| {
                let at = used.iter().position(|&other| other == id).unwrap_or(0);
                WeightId((inputs.len() + copy * used.len() + at) as u32)
            };
            for node in nodes.iter().map(|&at| &program.nodes[at]) {
                let read = node.inputs.iter().map(|id| made[id.index()].expect("written before read"));
                let outputs: Vec<_> = node.outputs.iter().map(|&id| program.value(id).clone()).collect();
                let op = node.op.moved(place, |_| KvLayer { group: 0, layer: copy });
                let ids = recorder.copy_node(op, &read.collect::<Vec<_>>(), &outputs);
                node.outputs.iter().zip(ids).for_each(|(old, new)| made[old.index()] = Some(new));
            }
        }
        let programs = vec![recorder.finish()?];
        let vocab_size = weights.first().or(self.weights.first()).map_or(1, WeightDecl::num_rows);
        Ok(Self {
            weights,
            kv,
            programs,
            vocab_size,
            optional: Vec::new(),
            unused_tensors: Vec::new(),
            stacked: Vec::new(),
            ..self.clone()
        })
    }
}

/// Whether a table's rows can stand for the value.
fn is_plain(program: &Program, id: ValueId) -> bool {
    let value = program.value(id);
    value.kind == ValueKind::Act && [Rows::TOKENS, Rows::OUTPUTS].contains(&value.rows)
}

/// The node and all before it that it cannot do without, in the order of the program; `None` if
/// there is no such node.
fn needed(program: &Program, node: usize) -> Option<Vec<usize>> {
    let mut nodes = Vec::new();
    let mut open = vec![node];
    while let Some(at) = open.pop() {
        let node = program.nodes.get(at)?;
        if nodes.contains(&at) {
            continue;
        }
        nodes.push(at);
        let made = node.inputs.iter().filter(|&&id| !is_plain(program, id));
        open.extend(made.filter_map(|id| program.nodes.iter().position(|n| n.outputs.contains(id))));
        if let Op::PagedAttention { kv, .. } = node.op {
            open.extend(program.nodes.iter().position(|n| n.op == Op::KvAppend { kv }));
        }
    }
    nodes.sort_unstable();
    Some(nodes)
}

/// The values that `nodes` read and do not make.
fn inputs(program: &Program, nodes: &[usize]) -> Vec<ValueId> {
    let (mut made, mut inputs) = (Vec::new(), Vec::new());
    for node in nodes.iter().map(|&at| &program.nodes[at]) {
        let missing = node.inputs.iter().filter(|id| !made.contains(*id));
        for id in missing {
            if !inputs.contains(id) {
                inputs.push(*id);
            }
        }
        made.extend(&node.outputs);
    }
    inputs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::{AxisRole, WeightPart};
    use crate::{AttentionSpec, SpecBuilder};

    fn table(at: usize, cols: usize) -> WeightDecl {
        let (name, role) = (format!("rows.{at}"), AxisRole::Replicated);
        let parts = vec![WeightPart { source: name.clone(), num_rows: 7, role }];
        WeightDecl { name, shape: vec![7, cols], parts, in_role: role }
    }

    /// A routed layer and attention to a cache, over tokens, then a head.
    fn model() -> ModelSpec {
        let mut b = SpecBuilder::new();
        let mut matrix = |name: &str, rows: usize, cols| {
            b.matrix(name, cols, AxisRole::Replicated, [(name.to_owned(), rows, AxisRole::Replicated)])
        };
        let [tokens, router, head] =
            [("tokens", 9), ("router", 4), ("head", 9)].map(|(n, r)| matrix(n, r, 16));
        let experts = b.weight(WeightDecl {
            name: "experts".into(),
            shape: vec![4, 16, 16],
            parts: vec![WeightPart { source: "experts".into(), num_rows: 64, role: AxisRole::Replicated }],
            in_role: AxisRole::Replicated,
        });
        let kv = b.paged_kv(PagedKv { num_layers: 3, num_heads: 2, head_dim: 8, window: None })(2);
        let mut p = b.program("generate");
        let x = p.embed(tokens);
        let logits = p.linear_f32(x, router);
        let (ids, weights) = p.top_k(logits, 2, true);
        let each = p.expert_linear(x, experts, ids);
        let x = p.weighted_sum(each, weights);
        p.kv_append(x, x, kv);
        let spec = AttentionSpec { num_heads: 2, num_kv_heads: 2, head_dim: 8, scale: 1.0, window: None };
        let x = p.paged_attention(x, &spec, kv);
        let x = p.gather_rows(x);
        let logits = p.linear_f32(x, head);
        p.output_logits(logits);
        b.finish("model", vec![p.finish().unwrap()], 9, 32)
    }

    fn stems(spec: &ModelSpec) -> Vec<&'static str> {
        spec.programs[0].nodes.iter().map(|node| node.op.stem()).collect()
    }

    #[test]
    fn every_op_runs_alone_with_what_it_cannot_do_without() {
        let model = model();
        let alone = |node| model.alone(node, 1, table).unwrap();
        assert_eq!(stems(&alone(0)), ["embed"]);
        assert_eq!(stems(&alone(2)), ["embed", "linear", "top_k"]);
        assert_eq!(stems(&alone(4)), ["embed", "linear", "top_k", "expert_linear", "weighted_sum"]);
        assert_eq!(stems(&alone(5)), ["embed", "kv_append"]);
        assert_eq!(stems(&alone(6)), ["embed", "kv_append", "paged_attention"]);
        assert_eq!(stems(&alone(8)), ["embed", "gather_rows", "linear"]);
        assert_eq!((alone(8).vocab_size, alone(0).vocab_size), (7, 9));
        assert!(model.alone(9, 1, table).is_err());
    }

    #[test]
    fn copies_have_weights_and_layers_of_their_own() {
        let model = model();
        let head = model.alone(8, 2, table).unwrap();
        let names: Vec<_> = head.weights.iter().map(|decl| decl.name.as_str()).collect();
        assert_eq!(names, ["rows.0", "head.0", "head.1"]);
        let read: Vec<_> = head.programs[0].nodes.iter().flat_map(|node| node.op.weights()).collect();
        assert_eq!(read, [0, 1, 2].map(WeightId));
        let attention = model.alone(6, 2, table).unwrap();
        assert_eq!(attention.kv[0].num_layers, 2);
        let layers: Vec<_> = attention.programs[0].nodes.iter().filter_map(|node| node.op.kv()).collect();
        assert_eq!(layers.iter().map(|kv| kv.layer).collect::<Vec<_>>(), [0, 0, 1, 1]);
    }
}
