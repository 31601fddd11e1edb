//! Fused ops as primitives: the expansion is the fused op's specification.

use super::{Node, Op, Program, Recorder};
use crate::{Result, ValueId};

impl Program {
    /// The same program with every fused op for which `wanted` holds replaced by its expansion.
    ///
    /// Labels and keep marks stay on the values that they were put on.
    pub fn expand(&self, wanted: impl Fn(&Op) -> bool) -> Result<Self> {
        let mut recorder = Recorder::new(&self.name, &self.weights);
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
        recorder.finish()
    }
}

/// Records the primitives that mean `node`; returns its outputs.
fn expansion(p: &mut Recorder, node: &Node, inputs: &[ValueId]) -> Vec<ValueId> {
    let Op::Attention { norm, rope, spec, kv } = &node.op else {
        unreachable!("only fused ops are expanded: {}", node.op.stem());
    };
    let (q_cols, kv_cols) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
    let mut q = p.slice_cols(inputs[0], 0, q_cols);
    let mut k = p.slice_cols(inputs[0], q_cols, kv_cols);
    let v = p.slice_cols(inputs[0], q_cols + kv_cols, kv_cols);
    if let Some(norm) = norm {
        q = p.rms_norm(q, norm.q, norm.eps);
        k = p.rms_norm(k, norm.k, norm.eps);
    }
    q = p.rope(q, rope);
    k = p.rope(k, rope);
    p.kv_append(k, v, *kv);
    vec![p.paged_attention(q, spec, *kv)]
}
