//! Fused ops as primitives: the expansion is the fused op's specification.

use super::{AttentionSpec, Node, Op, Program, Projection, QkNorm, Recorder, RopeSpec};
use crate::{KvLayer, Result, ValueId};

impl Program {
    /// The same program with every fused op for which `wanted` holds replaced by its expansion.
    ///
    /// Labels and keep marks stay on the values that they were put on.
    pub fn expand(&self, wanted: impl Fn(&Op) -> bool) -> Result<Self> {
        let mut recorder = Recorder::new(&self.name, &self.weights, &self.kv);
        let mut renamed: Vec<Option<ValueId>> = vec![None; self.values.len()];
        for node in &self.nodes {
            let inputs: Vec<_> =
                node.inputs.iter().map(|id| renamed[id.index()].expect("written before read")).collect();
            let outputs = if node.op.is_fused() && wanted(&node.op) {
                expansion(&mut recorder, node, &inputs)
            } else {
                let values: Vec<_> = node.outputs.iter().map(|&id| self.value(id).clone()).collect();
                recorder.copy_node(node.op.clone(), &inputs, &values)
            };
            for (old, new) in node.outputs.iter().zip(outputs) {
                recorder.copy_marks(new, self.value(*old));
                renamed[old.index()] = Some(new);
            }
        }
        recorder.copy_output(self, &renamed);
        recorder.finish()
    }
}

/// Records the primitives that mean `node`; returns its outputs.
fn expansion(p: &mut Recorder, node: &Node, inputs: &[ValueId]) -> Vec<ValueId> {
    let output = match node.op {
        Op::Attention { ref norm, ref rope, ref spec, kv } => {
            attention(p, inputs[0], norm.as_ref(), rope, (spec, kv))
        }
        Op::LinearAdd { weight, bias } => {
            let y = p.linear(inputs[0], Projection { weight, bias });
            p.add(y, inputs[1])
        }
        Op::LinearSiluMul { weight, bias } => {
            let y = p.linear(inputs[0], Projection { weight, bias });
            p.silu_mul(y)
        }
        _ => unreachable!("only fused ops are expanded: {}", node.op.stem()),
    };
    vec![output]
}

fn attention(
    p: &mut Recorder,
    qkv: ValueId,
    norm: Option<&QkNorm>,
    rope: &RopeSpec,
    (spec, kv): (&AttentionSpec, KvLayer),
) -> ValueId {
    let (q_cols, kv_cols) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
    let mut q = p.slice_cols(qkv, 0, q_cols);
    let mut k = p.slice_cols(qkv, q_cols, kv_cols);
    let v = p.slice_cols(qkv, q_cols + kv_cols, kv_cols);
    if let Some(norm) = norm {
        q = p.rms_norm(q, norm.q, norm.eps);
        k = p.rms_norm(k, norm.k, norm.eps);
    }
    q = p.rope(q, rope);
    k = p.rope(k, rope);
    p.kv_append(k, v, kv);
    p.paged_attention(q, spec, kv)
}
