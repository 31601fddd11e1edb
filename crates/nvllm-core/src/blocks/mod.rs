//! Blocks that model families share: each declares its weights and records its ops.
//!
//! They know Hugging Face's names of tensors and fields, and no family. A Llama-like family reads
//! config.json as a [`DecoderConfig`], says what its [`DecoderLayer`] is made of, and calls
//! [`causal_lm()`]; what makes it another family (a norm inside, routed experts) is its own code.

mod attention;
mod causal_lm;
mod config;
mod layer;
mod mlp;
#[cfg(test)]
mod tests;
mod windows;

pub use attention::{GqaAttention, GqaShape};
pub use causal_lm::{CausalLmShape, causal_lm};
pub use config::DecoderConfig;
pub use layer::{DecoderLayer, FeedForward};
pub use mlp::GatedMlp;

use crate::program::Projection;
use crate::{AxisRole, SpecBuilder, WeightDecl, WeightId, WeightPart};

/// Where a block's weights are found: what their logical names and their tensors' names begin with.
#[derive(Clone, Debug)]
pub struct Scope {
    name: String,
    source: String,
}

impl Scope {
    /// Of layer `index`: `layers.3.` and `model.layers.3.`.
    pub fn layer(index: usize) -> Self {
        Self { name: format!("layers.{index}."), source: format!("model.layers.{index}.") }
    }

    /// A weight's logical name.
    pub fn name(&self, weight: &str) -> String {
        format!("{}{weight}", self.name)
    }

    /// A tensor's name in the checkpoint.
    pub fn source(&self, tensor: &str) -> String {
        format!("{}{tensor}", self.source)
    }

    /// The norm `weight` of `n` columns, from `tensor`.
    pub fn vector(&self, b: &mut SpecBuilder, weight: &str, tensor: &str, n: usize) -> WeightId {
        b.vector(self.name(weight), self.source(tensor), n)
    }

    /// A linear layer of `k` columns: its parts are the tensors `{part}.weight`, rows and their
    /// role each, and if it has a `bias` the tensors `{part}.bias`.
    pub fn linear(
        &self,
        b: &mut SpecBuilder,
        weight: &str,
        (k, in_role): (usize, AxisRole),
        parts: &[(&str, usize, AxisRole)],
        bias: bool,
    ) -> Projection {
        let parts = |kind: &str| -> Vec<_> {
            let part = |&(part, num_rows, role): &(&str, usize, AxisRole)| WeightPart {
                source: self.source(&format!("{part}.{kind}")),
                num_rows,
                role,
            };
            parts.iter().map(part).collect()
        };
        let n = parts("weight").iter().map(|part| part.num_rows).sum();
        let name = self.name(weight);
        let biases = || WeightDecl {
            name: format!("{name}.bias"),
            shape: vec![n],
            parts: parts("bias"),
            in_role: AxisRole::Replicated,
        };
        Projection {
            weight: b.weight(WeightDecl {
                name: name.clone(),
                shape: vec![n, k],
                parts: parts("weight"),
                in_role,
            }),
            bias: bias.then(|| b.weight(biases())),
        }
    }
}
