//! What each architecture's `config.json` says beyond what all decoders' say.

use nvllm_core::blocks::DecoderConfig;
use nvllm_core::{HfConfig, Result};

/// Everything the tape needs to know.
pub(crate) struct Config {
    pub decoder: DecoderConfig,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    /// Sliding window of each layer.
    pub windows: Vec<Option<usize>>,
}

/// Mistral's window where config.json does not name the field, as in transformers' `MistralConfig`;
/// `null` is no window.
const MISTRAL_WINDOW: usize = 4096;

impl Config {
    /// Every layer sees everything.
    pub(crate) fn llama(hf: &HfConfig) -> Result<Self> {
        let decoder = DecoderConfig::read(hf)?;
        let bias = hf.flag_or("attention_bias", false)?;
        Ok(Self {
            qkv_bias: bias,
            o_bias: bias,
            mlp_bias: hf.flag_or("mlp_bias", false)?,
            windows: decoder.windows(hf, None, |_| false)?,
            decoder,
        })
    }

    /// Every layer has the window.
    pub(crate) fn mistral(hf: &HfConfig) -> Result<Self> {
        let decoder = DecoderConfig::read(hf)?;
        let window = hf.extent_opt("sliding_window")?;
        let window = if hf.names("sliding_window") { window } else { Some(MISTRAL_WINDOW) };
        let windows = decoder.windows(hf, window, |_| true)?;
        Ok(Self { qkv_bias: false, o_bias: false, mlp_bias: false, windows, decoder })
    }

    /// Biases on q, k and v, always; a window on the upper layers if switched on.
    pub(crate) fn qwen2(hf: &HfConfig) -> Result<Self> {
        let decoder = DecoderConfig::read(hf)?;
        let windows = decoder.upper_windows(hf)?;
        Ok(Self { qkv_bias: true, o_bias: false, mlp_bias: false, windows, decoder })
    }
}
