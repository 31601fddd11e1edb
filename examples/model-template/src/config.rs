//! What `config.json` says beyond what all decoders' say.

use nvllm_core::blocks::DecoderConfig;
use nvllm_core::{HfConfig, Result};

/// Everything the tape needs to know.
pub(crate) struct Config {
    pub decoder: DecoderConfig,
    pub attention_bias: bool,
    /// Sliding window of each layer.
    pub windows: Vec<Option<usize>>,
}

impl Config {
    /// Reads the fields that change what the model computes, and refuses what the tape would get
    /// wrong: `HfConfig`'s getters name the field in every error.
    pub(crate) fn read(hf: &HfConfig) -> Result<Self> {
        let decoder = DecoderConfig::read(hf)?;
        Ok(Self {
            attention_bias: hf.flag_or("attention_bias", false)?,
            windows: decoder.windows(hf, None, |_| false)?,
            decoder,
        })
    }
}
