//! Qwen3, dense and mixture-of-experts, as a tape.
//!
//! A pre-norm transformer with grouped-query attention whose queries and keys are normalised per head before rotation,
//! and a SwiGLU feed-forward, dense or routed. `config.rs` reads Hugging Face's `config.json` in both of its layouts;
//! this file records the program. No backend, no quantisation and no parallelism is named here.
//!
//! Source: Qwen Team 2025, "Qwen3 Technical Report" (arXiv 2505.09388).

mod config;

use nvllm_core::program::{Projection, QkNorm};
use nvllm_core::{
    AttentionSpec, AxisRole, HfConfig, KvLayer, ModelFamily, ModelSpec, PagedKv, Recorder, Result, RopeSpec,
    SpecBuilder, ValueId, WeightDecl, WeightId, WeightPart,
};

use config::{Config, Moe};

/// The family's entry in the model registry.
pub const FAMILY: ModelFamily =
    ModelFamily { architectures: &["Qwen3ForCausalLM", "Qwen3MoeForCausalLM"], build };

/// Reads the config and records the model.
///
/// Labelled values: `hidden.0` (embeddings), `hidden.l` (after layer `l`, the last one after the final norm) and `logits`.
pub fn build(hf: &HfConfig) -> Result<ModelSpec> {
    let config = Config::read(hf)?;
    let mut b = SpecBuilder::new();
    let kv = b.paged_kv(PagedKv {
        group: 0,
        num_layers: config.num_layers,
        num_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        window: config.common_window(),
    });
    let embed_tokens = b.matrix(
        "embed_tokens",
        config.hidden,
        AxisRole::Replicated,
        [("model.embed_tokens.weight".into(), config.vocab, AxisRole::Vocab)],
    );
    let layers: Vec<_> = (0..config.num_layers).map(|i| Layer::declare(&mut b, &config, i)).collect();
    let norm = b.vector("norm", "model.norm.weight", config.hidden);
    let lm_head = if config.tied {
        embed_tokens
    } else {
        b.matrix(
            "lm_head",
            config.hidden,
            AxisRole::Replicated,
            [("lm_head.weight".into(), config.vocab, AxisRole::Vocab)],
        )
    };

    let mut p = b.program("generate");
    let mut h = p.embed(embed_tokens);
    p.label(h, "hidden.0");
    for (i, layer) in layers.iter().enumerate() {
        h = layer.record(&mut p, &config, i, h, kv(i));
        if i + 1 < layers.len() {
            p.label(h, format!("hidden.{}", i + 1));
        }
    }
    h = p.rms_norm(h, norm, config.eps);
    p.label(h, format!("hidden.{}", layers.len()));
    let outputs = p.gather_rows(h);
    let logits = p.linear_f32(outputs, lm_head);
    p.label(logits, "logits");
    p.output_logits(logits);
    let program = p.finish()?;

    let name = if config.moe.is_some() { "Qwen3-MoE" } else { "Qwen3" };
    let mut spec = b.finish(name, vec![program], config.vocab, config.max_positions);
    if config.tied {
        spec.unused_tensors.push("lm_head.weight".into());
    }
    Ok(spec)
}

/// One layer's weights.
struct Layer {
    input_norm: WeightId,
    qkv: Projection,
    q_norm: WeightId,
    k_norm: WeightId,
    o: Projection,
    post_norm: WeightId,
    mlp: Mlp,
}

enum Mlp {
    Dense { gate_up: WeightId, down: WeightId },
    Sparse { router: WeightId, gate_up: WeightId, down: WeightId, moe: Moe },
}

impl Layer {
    fn declare(b: &mut SpecBuilder, config: &Config, index: usize) -> Self {
        use AxisRole::{Heads, KvHeads, Replicated};
        let source = |tensor: &str| format!("model.layers.{index}.{tensor}");
        let name = |weight: &str| format!("layers.{index}.{weight}");
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let part =
            |proj: &str, kind: &str, n, role| (source(&format!("self_attn.{proj}_proj.{kind}")), n, role);
        let qkv = |kind: &str| {
            [part("q", kind, q, Heads), part("k", kind, kv, KvHeads), part("v", kind, kv, KvHeads)]
        };
        let bias = |b: &mut SpecBuilder, weight: &str, parts: Vec<(String, usize, AxisRole)>| {
            let parts: Vec<_> = parts
                .into_iter()
                .map(|(source, num_rows, role)| WeightPart { source, num_rows, role })
                .collect();
            let shape = vec![parts.iter().map(|p| p.num_rows).sum()];
            b.weight(WeightDecl { name: name(weight), shape, parts, in_role: Replicated })
        };
        Self {
            input_norm: b.vector(name("input_norm"), source("input_layernorm.weight"), config.hidden),
            qkv: Projection {
                weight: b.matrix(name("qkv"), config.hidden, Replicated, qkv("weight")),
                bias: config.attention_bias.then(|| bias(b, "qkv.bias", qkv("bias").into())),
            },
            q_norm: b.vector(name("q_norm"), source("self_attn.q_norm.weight"), config.head_dim),
            k_norm: b.vector(name("k_norm"), source("self_attn.k_norm.weight"), config.head_dim),
            o: Projection {
                weight: b.matrix(name("o"), q, Heads, [part("o", "weight", config.hidden, Replicated)]),
                bias: config
                    .attention_bias
                    .then(|| bias(b, "o.bias", vec![part("o", "bias", config.hidden, Replicated)])),
            },
            post_norm: b.vector(name("post_norm"), source("post_attention_layernorm.weight"), config.hidden),
            mlp: Mlp::declare(b, config, index),
        }
    }

    fn record(
        &self,
        p: &mut Recorder,
        config: &Config,
        index: usize,
        mut h: ValueId,
        kv: KvLayer,
    ) -> ValueId {
        let norm = QkNorm { q: self.q_norm, k: self.k_norm, eps: config.eps };
        let rope =
            RopeSpec { head_dim: config.head_dim, theta: config.rope.theta, scaling: config.rope.scaling };
        let spec = AttentionSpec {
            num_heads: config.num_heads,
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            window: config.windows[index],
        };
        let x = p.rms_norm(h, self.input_norm, config.eps);
        let qkv = p.linear(x, self.qkv);
        let a = p.attention(qkv, Some(norm), &rope, &spec, kv);
        let a = p.linear(a, self.o);
        h = p.add(h, a);
        let x = p.rms_norm(h, self.post_norm, config.eps);
        let x = self.mlp.record(p, x);
        p.add(h, x)
    }
}

impl Mlp {
    fn declare(b: &mut SpecBuilder, config: &Config, index: usize) -> Self {
        use AxisRole::{Experts, Ffn, Replicated};
        let source = |tensor: &str| format!("model.layers.{index}.mlp.{tensor}.weight");
        let name = |weight: &str| format!("layers.{index}.{weight}");
        let hidden = config.hidden;
        let Some(moe) = config.moe.as_ref().filter(|moe| moe.is_sparse(index)) else {
            let gate_up = ["gate_proj", "up_proj"].map(|proj| (source(proj), config.ffn, Ffn));
            return Self::Dense {
                gate_up: b.matrix(name("gate_up"), hidden, Replicated, gate_up),
                down: b.matrix(name("down"), config.ffn, Ffn, [(source("down_proj"), hidden, Replicated)]),
            };
        };
        let part = |expert, proj, num_rows, role| WeightPart {
            source: source(&format!("experts.{expert}.{proj}")),
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
            let id = b.weight(WeightDecl { name: name(&format!("experts.{weight}")), shape, parts, in_role });
            b.or_stacked(id, format!("model.layers.{index}.mlp.experts.{weight}_proj"))
        };
        Self::Sparse {
            router: b.matrix(
                name("router"),
                hidden,
                Replicated,
                [(source("gate"), moe.num_experts, Experts)],
            ),
            gate_up: experts(b, "gate_up", [2 * moe.ffn, hidden], gate_up, Replicated),
            down: experts(b, "down", [hidden, moe.ffn], down, Ffn),
            moe: moe.clone(),
        }
    }

    fn record(&self, p: &mut Recorder, x: ValueId) -> ValueId {
        match self {
            Self::Dense { gate_up, down } => {
                let gate_up = p.linear(x, *gate_up);
                let x = p.silu_mul(gate_up);
                p.linear(x, *down)
            }
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
