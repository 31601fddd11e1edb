//! Qwen3, dense and mixture-of-experts, as a tape.
//!
//! A pre-norm transformer with grouped-query attention whose queries and keys are normalised per
//! head before rotation, and a SwiGLU feed-forward, dense or routed. `config.rs` reads Hugging
//! Face's `config.json` in both of its layouts; this file says what a layer is made of. No backend,
//! no quantisation and no parallelism is named here.
//!
//! Source: Qwen Team 2025, "Qwen3 Technical Report" (arXiv 2505.09388).

mod config;

use nvllm_core::blocks::{DecoderLayer, FeedForward, GatedMlp, GqaShape, Scope, causal_lm};
use nvllm_core::{
    AxisRole, HfConfig, KvLayer, ModelFamily, ModelSpec, Recorder, Result, SpecBuilder, ValueId, WeightDecl,
    WeightId, WeightPart,
};

use config::{Config, Moe};

/// The family's entry in the model registry.
pub const FAMILY: ModelFamily =
    ModelFamily { architectures: &["Qwen3ForCausalLM", "Qwen3MoeForCausalLM"], build };

/// Reads the config and records the model, with the labels that [`causal_lm`] gives.
pub fn build(hf: &HfConfig) -> Result<ModelSpec> {
    let config = Config::read(hf)?;
    let decoder = &config.decoder;
    let mut b = SpecBuilder::new();
    let kv = decoder.kv_layers(&mut b, &config.windows);
    let name = if config.moe.is_some() { "Qwen3-MoE" } else { "Qwen3" };
    let declare = |b: &mut SpecBuilder, i| layer(b, &config, i, kv[i]);
    causal_lm(name, &decoder.causal_lm_shape(), b, declare, |layer, p, h| layer.record(p, h, decoder.eps))
}

fn layer(b: &mut SpecBuilder, config: &Config, index: usize, kv: KvLayer) -> DecoderLayer<Mlp> {
    let scope = Scope::layer(index);
    let decoder = &config.decoder;
    let attention = GqaShape {
        qkv_bias: config.attention_bias,
        o_bias: config.attention_bias,
        qk_norm: Some(decoder.eps),
        ..decoder.attention(config.windows[index])
    };
    let moe = config.moe.as_ref().filter(|moe| moe.is_sparse(index));
    DecoderLayer::declare(b, &scope, &attention, kv, |b| match moe {
        None => Mlp::Dense(GatedMlp::declare(b, &scope, decoder.hidden, decoder.ffn, false)),
        Some(moe) => Mlp::sparse(b, &scope, decoder.hidden, moe),
    })
}

enum Mlp {
    Dense(GatedMlp),
    Sparse { router: WeightId, gate_up: WeightId, down: WeightId, moe: Moe },
}

impl Mlp {
    fn sparse(b: &mut SpecBuilder, scope: &Scope, hidden: usize, moe: &Moe) -> Self {
        use AxisRole::{Experts, Ffn, Replicated};
        let part = |expert, proj, num_rows, role| WeightPart {
            source: scope.source(&format!("mlp.experts.{expert}.{proj}.weight")),
            num_rows,
            role,
        };
        let gate_up = (0..moe.num_experts)
            .flat_map(|e| [part(e, "gate_proj", moe.ffn, Ffn), part(e, "up_proj", moe.ffn, Ffn)])
            .collect();
        let down = (0..moe.num_experts).map(|e| part(e, "down_proj", hidden, Replicated)).collect();
        // transformers 5 holds the experts of a layer in one tensor.
        let experts = |b: &mut SpecBuilder, weight: &str, [n, k]: [usize; 2], parts, in_role| {
            let shape = vec![moe.num_experts, n, k];
            let name = scope.name(&format!("experts.{weight}"));
            let id = b.weight(WeightDecl { name, shape, parts, in_role });
            b.or_stacked(id, scope.source(&format!("mlp.experts.{weight}_proj")))
        };
        let gate = [("mlp.gate", moe.num_experts, Experts)];
        Self::Sparse {
            router: scope.linear(b, "router", (hidden, Replicated), &gate, false).weight,
            gate_up: experts(b, "gate_up", [2 * moe.ffn, hidden], gate_up, Replicated),
            down: experts(b, "down", [hidden, moe.ffn], down, Ffn),
            moe: moe.clone(),
        }
    }
}

impl FeedForward for Mlp {
    fn record(&self, p: &mut Recorder, x: ValueId) -> ValueId {
        match self {
            Self::Dense(mlp) => mlp.record(p, x),
            Self::Sparse { router, gate_up, down, moe } => {
                let scores = p.linear_f32(x, *router);
                let (ids, weights) = p.top_k(scores, moe.experts_per_token, moe.renormalize);
                let gate_up = p.expert_linear(x, *gate_up, ids);
                let x = p.silu_mul(gate_up);
                let x = p.expert_linear(x, *down, ids);
                p.weighted_sum(x, weights)
            }
        }
    }
}
