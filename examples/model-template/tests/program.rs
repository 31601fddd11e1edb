//! Sizes of the published models, and what a bad config says. Whether the numbers are right is seen
//! by the golden fixture.

use nvllm_core::{HfConfig, ModelSpec, Result};
use nvllm_model_template::build;
use serde_json::{Value, json};

/// The config.json of a published model.
fn config() -> Value {
    json!({
        "architectures": ["TemplateForCausalLM"], "vocab_size": 49_152, "hidden_size": 576,
        "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 1e5, "tie_word_embeddings": true,
    })
}

fn spec(config: &Value) -> Result<ModelSpec> {
    build(&HfConfig::parse(config.to_string().as_bytes())?)
}

/// As the model's card gives them.
#[test]
fn parameters_are_those_of_the_published_model() {
    assert_eq!(spec(&config()).unwrap().num_parameters(), 134_515_008);
}

#[test]
fn a_bad_config_names_its_field() {
    for (field, value) in [("hidden_act", json!("gelu")), ("attention_bias", json!("yes"))] {
        let mut config = config();
        config[field] = value;
        let text = spec(&config).err().unwrap_or_else(|| panic!("{field} was accepted")).to_string();
        assert!(text.contains(field), "{text}");
    }
}
