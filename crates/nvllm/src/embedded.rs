//! The demo model inside the binary, and the cargo feature that puts it there.

use anyhow::{Result, bail};
use nvllm_engine::Model;

/// What a model is called when none was named.
pub(crate) const NAME: &str = "nvllm-tiny";

/// The embedded model, if this build has one.
#[cfg(feature = "embedded-model")]
pub(crate) fn open() -> Result<Model> {
    use bytes::Bytes;
    use nvllm_engine::ModelBytes;

    macro_rules! file {
        ($name:literal) => {
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nvllm-tiny/", $name))
        };
    }
    let files = ModelBytes {
        name: NAME,
        config: file!("config.json"),
        generation_config: file!("generation_config.json"),
        tokenizer: file!("tokenizer.json"),
        tokenizer_config: file!("tokenizer_config.json"),
        weights: Bytes::from_static(weights()),
    };
    match Model::from_bytes(&files) {
        Ok(model) => Ok(model),
        Err(e) => bail!("the embedded model is damaged: {e}"),
    }
}

/// The embedded model, if this build has one.
#[cfg(not(feature = "embedded-model"))]
pub(crate) fn open() -> Result<Model> {
    bail!("this build has no embedded model {NAME}: name one with --model (a directory or a hub id)")
}

/// The embedded model's weights' file.
#[cfg(feature = "embedded-model")]
pub(crate) fn weights() -> &'static [u8] {
    /// Weights are read in place, as 16-bit numbers and in vectors.
    #[repr(C, align(64))]
    struct Aligned<T: ?Sized>(T);

    static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/nvllm-tiny/model.safetensors"
    )));
    &WEIGHTS.0
}

/// The embedded model's weights' file: this build has none.
#[cfg(not(feature = "embedded-model"))]
pub(crate) fn weights() -> &'static [u8] {
    &[]
}
