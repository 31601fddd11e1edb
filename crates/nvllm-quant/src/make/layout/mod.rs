//! Made tensors as other engines' files have them.

mod bitsandbytes;
mod compressed_tensors;
mod entry;

use bytes::Bytes;
use nvllm_core::{CanonicalTensor, CoreError, DType, Result, TensorInfo};
use serde_json::Value;

use super::Format;
pub use entry::Entry;

/// Whose layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// compressed-tensors': integers and FP8.
    CompressedTensors,
    /// bitsandbytes': NF4.
    BitsAndBytes {
        /// Whether scales are quantised too: to 8 bits, with a scale for 256 of them.
        double_quant: bool,
    },
}

impl Layout {
    /// The layout that holds weights of `format`.
    pub const fn of(format: Format, double_quant: bool) -> Self {
        match format {
            Format::Nf4 => Self::BitsAndBytes { double_quant },
            _ => Self::CompressedTensors,
        }
    }

    /// What the file holds of the tensor `name`: of a dense one itself.
    ///
    /// Errors if its extents do not go into the layout.
    pub fn entries(self, name: &str, info: &TensorInfo) -> Result<Vec<Entry>> {
        if let Some(dtype) = info.format.plain() {
            let dtype = match dtype {
                DType::F16 => "F16",
                DType::Bf16 => "BF16",
                _ => "F32",
            };
            return Ok(vec![Entry::new(name.into(), dtype, info.shape.clone())]);
        }
        match self {
            Self::CompressedTensors => compressed_tensors::entries(name, info),
            Self::BitsAndBytes { double_quant } => bitsandbytes::entries(name, info, double_quant),
        }
    }

    /// The bytes of [`entries`](Self::entries), in that order. `model_dtype` is that of the
    /// activations that the model was made for (`bfloat16`), which some layouts note.
    ///
    /// Errors as they do.
    pub fn bytes(self, name: &str, tensor: &CanonicalTensor, model_dtype: &str) -> Result<Vec<Bytes>> {
        if tensor.format.plain().is_some() {
            return Ok(vec![tensor.codes.clone()]);
        }
        match self {
            Self::CompressedTensors => compressed_tensors::bytes(name, tensor),
            Self::BitsAndBytes { double_quant } => {
                bitsandbytes::bytes(name, tensor, model_dtype, double_quant)
            }
        }
    }

    /// `quantization_config` of config.json: `layers` is the format of linear layers, `head` that
    /// of the head, `dense` are the modules that stay as they are.
    ///
    /// Errors if the layout cannot say that.
    pub fn config(
        self,
        layers: Format,
        head: Option<Format>,
        dense: &[String],
        model_dtype: &str,
    ) -> Result<Value> {
        match self {
            Self::CompressedTensors => Ok(compressed_tensors::config(layers, head, dense)),
            Self::BitsAndBytes { .. } if head.is_some() => Err(CoreError::BadTensor {
                name: "lm_head.weight".into(),
                problem: "cannot be in another format than the layers in bitsandbytes' layout".into(),
            }),
            Self::BitsAndBytes { double_quant } => Ok(bitsandbytes::config(dense, model_dtype, double_quant)),
        }
    }
}
