//! Grouped-query attention: projections, rotation, attention over the cache, projection.

use super::Scope;
use crate::AxisRole::{Heads, KvHeads, Replicated};
use crate::program::{Projection, QkNorm, Recorder};
use crate::{AttentionSpec, KvLayer, RopeSpec, SpecBuilder, ValueId};

/// What a layer's attention is like.
#[derive(Clone, Debug)]
pub struct GqaShape {
    /// Columns of the residual stream.
    pub hidden: usize,
    /// Heads, scale and window.
    pub spec: AttentionSpec,
    /// Rotation of queries and keys.
    pub rope: RopeSpec,
    /// Whether the q, k and v projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub o_bias: bool,
    /// Epsilon of a norm of each head's queries and keys before rotation; none: there is none.
    pub qk_norm: Option<f32>,
}

/// One layer's attention.
///
/// Source: Ainslie et al. 2023, "GQA: Training Generalized Multi-Query Transformer Models".
pub struct GqaAttention {
    qkv: Projection,
    norm: Option<QkNorm>,
    o: Projection,
    rope: RopeSpec,
    spec: AttentionSpec,
    kv: KvLayer,
}

impl GqaAttention {
    /// Declares `qkv`, `q_norm`, `k_norm` and `o` of the tensors `self_attn.*`. Keys and values go
    /// to `kv`.
    pub fn declare(b: &mut SpecBuilder, scope: &Scope, shape: &GqaShape, kv: KvLayer) -> Self {
        let d = shape.spec.head_dim;
        let (q, k) = (shape.spec.num_heads * d, shape.spec.num_kv_heads * d);
        let parts = [
            ("self_attn.q_proj", q, Heads),
            ("self_attn.k_proj", k, KvHeads),
            ("self_attn.v_proj", k, KvHeads),
        ];
        let o = [("self_attn.o_proj", shape.hidden, Replicated)];
        Self {
            qkv: scope.linear(b, "qkv", (shape.hidden, Replicated), &parts, shape.qkv_bias),
            norm: shape.qk_norm.map(|eps| QkNorm {
                q: scope.vector(b, "q_norm", "self_attn.q_norm.weight", d),
                k: scope.vector(b, "k_norm", "self_attn.k_norm.weight", d),
                eps,
            }),
            o: scope.linear(b, "o", (q, Heads), &o, shape.o_bias),
            rope: shape.rope.clone(),
            spec: shape.spec.clone(),
            kv,
        }
    }

    /// From the normalised input to what is added to the residual stream.
    pub fn record(&self, p: &mut Recorder, x: ValueId) -> ValueId {
        let qkv = p.linear(x, self.qkv);
        let x = p.attention(qkv, self.norm, &self.rope, &self.spec, self.kv);
        p.linear(x, self.o)
    }
}
