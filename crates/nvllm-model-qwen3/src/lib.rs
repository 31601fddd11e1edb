//! Qwen3, dense and mixture-of-experts, as a tape.
//!
//! A pre-norm transformer with grouped-query attention whose queries and keys are normalised per
//! head before rotation, and a SwiGLU feed-forward, dense or routed. `config.rs` reads Hugging
//! Face's `config.json` in both of its layouts; this file says what a layer is made of. No backend,
//! no quantisation and no parallelism is named here.
//!
//! Source: Qwen Team 2025, "Qwen3 Technical Report" (arXiv 2505.09388).

mod config;

use nvllm_core::blocks::{CausalLmShape, GatedMlp, GqaAttention, GqaShape, Scope, causal_lm};
use nvllm_core::{
    AttentionSpec, AxisRole, HfConfig, KvLayer, ModelFamily, ModelSpec, PagedKv, Recorder, Result, RopeSpec,
    SpecBuilder, ValueId, WeightDecl, WeightId, WeightPart,
};

use config::{Config, Moe};

/// The family's entry in the model registry.
pub const FAMILY: ModelFamily =
    ModelFamily { architectures: &["Qwen3ForCausalLM", "Qwen3MoeForCausalLM"], build };

/// Reads the config and records the model, with the labels that [`causal_lm`] gives.
pub fn build(hf: &HfConfig) -> Result<ModelSpec> {
    let config = Config::read(hf)?;
    let mut b = SpecBuilder::new();
    let kv = kv_layers(&mut b, &config);
    let shape = CausalLmShape {
        vocab: config.vocab,
        hidden: config.hidden,
        num_layers: config.num_layers,
        eps: config.eps,
        tied: config.tied,
        max_positions: config.max_positions,
    };
    let name = if config.moe.is_some() { "Qwen3-MoE" } else { "Qwen3" };
    let declare = |b: &mut SpecBuilder, i| Layer::declare(b, &config, i, kv[i]);
    causal_lm(name, &shape, b, declare, |layer, p, h| layer.record(p, h, config.eps))
}

/// Where each layer keeps its keys and values. Layers that see equally far back share a KV group:
/// what none of them sees any more can be given back.
fn kv_layers(b: &mut SpecBuilder, config: &Config) -> Vec<KvLayer> {
    let mut places = vec![KvLayer { group: 0, layer: 0 }; config.num_layers];
    let mut declared = Vec::new();
    for &window in &config.windows {
        if declared.contains(&window) {
            continue;
        }
        declared.push(window);
        let members: Vec<_> = (0..config.num_layers).filter(|&i| config.windows[i] == window).collect();
        let kv = b.paged_kv(PagedKv {
            num_layers: members.len(),
            num_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            window,
        });
        members.into_iter().enumerate().for_each(|(layer, i)| places[i] = kv(layer));
    }
    places
}

/// One layer.
struct Layer {
    input_norm: WeightId,
    attention: GqaAttention,
    post_norm: WeightId,
    mlp: Mlp,
}

enum Mlp {
    Dense(GatedMlp),
    Sparse { router: WeightId, gate_up: WeightId, down: WeightId, moe: Moe },
}

impl Layer {
    fn declare(b: &mut SpecBuilder, config: &Config, index: usize, kv: KvLayer) -> Self {
        let scope = Scope::layer(index);
        let head_dim = config.head_dim;
        let shape = GqaShape {
            hidden: config.hidden,
            spec: AttentionSpec {
                num_heads: config.num_heads,
                num_kv_heads: config.num_kv_heads,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
                window: config.windows[index],
            },
            rope: RopeSpec { head_dim, theta: config.rope.theta, scaling: config.rope.scaling },
            qkv_bias: config.attention_bias,
            o_bias: config.attention_bias,
            qk_norm: Some(config.eps),
        };
        Self {
            input_norm: scope.vector(b, "input_norm", "input_layernorm.weight", config.hidden),
            attention: GqaAttention::declare(b, &scope, &shape, kv),
            post_norm: scope.vector(b, "post_norm", "post_attention_layernorm.weight", config.hidden),
            mlp: match config.moe.as_ref().filter(|moe| moe.is_sparse(index)) {
                None => Mlp::Dense(GatedMlp::declare(b, &scope, config.hidden, config.ffn, false)),
                Some(moe) => Mlp::sparse(b, &scope, config.hidden, moe),
            },
        }
    }

    fn record(&self, p: &mut Recorder, h: ValueId, eps: f32) -> ValueId {
        let x = p.rms_norm(h, self.input_norm, eps);
        let x = self.attention.record(p, x);
        let h = p.add(h, x);
        let x = p.rms_norm(h, self.post_norm, eps);
        let x = self.mlp.record(p, x);
        p.add(h, x)
    }
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
