//! The model families that this build knows: one line each.

use nvllm_core::{HfConfig, ModelFamily, ModelSpec};

use crate::{EngineError, Result};

/// Every family; a new model adds its line here.
const FAMILIES: [ModelFamily; 1] = [nvllm_model_qwen3::FAMILY];

/// Records the model that `config` describes.
pub(crate) fn build(config: &HfConfig) -> Result<ModelSpec> {
    let architecture = config.architecture()?;
    if let Some(family) = FAMILIES.iter().find(|f| f.architectures.contains(&architecture.as_str())) {
        return Ok((family.build)(config)?);
    }
    let supported = FAMILIES.iter().flat_map(|f| f.architectures).copied().collect::<Vec<_>>().join(", ");
    Err(EngineError::UnknownArchitecture { architecture, supported })
}
