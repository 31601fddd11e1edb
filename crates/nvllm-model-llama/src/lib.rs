//! Llama 2 and 3, SmolLM2, Mistral, Qwen2 and Qwen2.5, as a tape.
//!
//! A pre-norm transformer with grouped-query attention and a SwiGLU feed-forward. The three
//! architectures differ in which linear layers have biases and in which layers see a window only;
//! what scales the rotation (linear, Llama 3, YaRN) is common to all.
//!
//! Sources: Touvron et al. 2023, "Llama 2" (arXiv 2307.09288); Llama Team 2024, "The Llama 3 Herd
//! of Models" (arXiv 2407.21783); Jiang et al. 2023, "Mistral 7B" (arXiv 2310.06825); Qwen Team
//! 2024, "Qwen2 Technical Report" (arXiv 2407.10671).

mod config;

use nvllm_core::blocks::{DecoderLayer, GatedMlp, GqaShape, Scope, causal_lm};
use nvllm_core::{KvLayer, ModelFamily, ModelSpec, Result, SpecBuilder};

use config::Config;

/// Llama's entry in the model registry.
pub const LLAMA: ModelFamily =
    ModelFamily { architectures: &["LlamaForCausalLM"], build: |hf| record("Llama", &Config::llama(hf)?) };

/// Mistral's entry in the model registry.
pub const MISTRAL: ModelFamily = ModelFamily {
    architectures: &["MistralForCausalLM"],
    build: |hf| record("Mistral", &Config::mistral(hf)?),
};

/// Qwen2's entry in the model registry.
pub const QWEN2: ModelFamily =
    ModelFamily { architectures: &["Qwen2ForCausalLM"], build: |hf| record("Qwen2", &Config::qwen2(hf)?) };

/// Records the model, with the labels that [`causal_lm`] gives.
fn record(name: &str, config: &Config) -> Result<ModelSpec> {
    let decoder = &config.decoder;
    let mut b = SpecBuilder::new();
    let kv = decoder.kv_layers(&mut b, &config.windows);
    let declare = |b: &mut SpecBuilder, i| layer(b, config, i, kv[i]);
    causal_lm(name, &decoder.causal_lm_shape(), b, declare, |layer, p, h| layer.record(p, h, decoder.eps))
}

fn layer(b: &mut SpecBuilder, config: &Config, index: usize, kv: KvLayer) -> DecoderLayer<GatedMlp> {
    let scope = Scope::layer(index);
    let decoder = &config.decoder;
    let attention = GqaShape {
        qkv_bias: config.qkv_bias,
        o_bias: config.o_bias,
        ..decoder.attention(config.windows[index])
    };
    let mlp =
        |b: &mut SpecBuilder| GatedMlp::declare(b, &scope, decoder.hidden, decoder.ffn, config.mlp_bias);
    DecoderLayer::declare(b, &scope, &attention, kv, mlp)
}
