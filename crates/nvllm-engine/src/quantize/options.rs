//! What a user decides about a quantised checkpoint.

use nvllm_quant::make::Recipe;

use super::method::Method;

/// What is made of a model.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// Which tensors become what.
    pub recipe: Recipe,
    /// How they are rounded.
    pub method: Method,
    /// Whether the scales of NF4 are quantised too.
    pub double_quant: bool,
    /// Bytes of a file of weights at most, if no tensor alone is larger.
    pub max_shard_bytes: usize,
}
