//! The model families that this build knows: one line each, here and nowhere else.

use nvllm_core::{HfConfig, ModelFamily};

use crate::{EngineError, Result};

/// Every family; a new model adds its line here.
pub static FAMILIES: &[ModelFamily] = &[
    nvllm_model_llama::LLAMA,
    nvllm_model_llama::MISTRAL,
    nvllm_model_llama::QWEN2,
    nvllm_model_qwen3::FAMILY,
];

/// The family that records the model which `config` describes.
///
/// # Errors
/// [`EngineError::UnknownArchitecture`], and those of a config.json that names no architecture.
pub fn family(config: &HfConfig) -> Result<&'static ModelFamily> {
    let architecture = config.architecture()?;
    let known = FAMILIES.iter().find(|f| f.architectures.contains(&architecture.as_str()));
    known.ok_or_else(|| {
        let supported = FAMILIES.iter().flat_map(|f| f.architectures).copied().collect::<Vec<_>>().join(", ");
        EngineError::UnknownArchitecture { architecture, supported }
    })
}
