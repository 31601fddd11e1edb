//! Template, as a tape.
//!
//! What kind of model it is, and in what it differs from others. No backend, no quantisation and no
//! parallelism is named here.
//!
//! Source: authors and year, title, place.

mod config;

use nvllm_core::blocks::{DecoderLayer, GatedMlp, GqaShape, Scope, causal_lm};
use nvllm_core::{HfConfig, KvLayer, ModelFamily, ModelSpec, Result, SpecBuilder};

use config::Config;

/// The family's entry in the model registry.
pub const FAMILY: ModelFamily = ModelFamily { architectures: &["TemplateForCausalLM"], build };

/// Reads the config and records the model, with the labels that [`causal_lm`] gives.
pub fn build(hf: &HfConfig) -> Result<ModelSpec> {
    let config = Config::read(hf)?;
    let decoder = &config.decoder;
    let mut b = SpecBuilder::new();
    let kv = decoder.kv_layers(&mut b, &config.windows);
    let declare = |b: &mut SpecBuilder, i| layer(b, &config, i, kv[i]);
    causal_lm("Template", &decoder.causal_lm_shape(), b, declare, |layer, p, h| layer.record(p, h, decoder.eps))
}

/// A pre-norm layer. Another feed-forward is a type that implements `FeedForward`; another order of
/// norms is a layer of the family's own, as `DecoderLayer` is written.
fn layer(b: &mut SpecBuilder, config: &Config, index: usize, kv: KvLayer) -> DecoderLayer<GatedMlp> {
    let scope = Scope::layer(index);
    let decoder = &config.decoder;
    let attention = GqaShape {
        qkv_bias: config.attention_bias,
        o_bias: config.attention_bias,
        ..decoder.attention(config.windows[index])
    };
    let mlp = |b: &mut SpecBuilder| GatedMlp::declare(b, &scope, decoder.hidden, decoder.ffn, false);
    DecoderLayer::declare(b, &scope, &attention, kv, mlp)
}
