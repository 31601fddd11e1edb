//! The gated feed-forward.

use super::Scope;
use crate::AxisRole::{Ffn, Replicated};
use crate::program::{Projection, Recorder};
use crate::{SpecBuilder, ValueId};

/// `down(silu(gate x) * up x)`.
///
/// Source: Shazeer 2020, "GLU Variants Improve Transformer".
pub struct GatedMlp {
    gate_up: Projection,
    down: Projection,
}

impl GatedMlp {
    /// Declares `gate_up` and `down` of the tensors `mlp.*`: `hidden` columns through `ffn`.
    pub fn declare(b: &mut SpecBuilder, scope: &Scope, hidden: usize, ffn: usize, bias: bool) -> Self {
        let gate_up = [("mlp.gate_proj", ffn, Ffn), ("mlp.up_proj", ffn, Ffn)];
        let down = [("mlp.down_proj", hidden, Replicated)];
        Self {
            gate_up: scope.linear(b, "gate_up", (hidden, Replicated), &gate_up, bias),
            down: scope.linear(b, "down", (ffn, Ffn), &down, bias),
        }
    }

    /// From the normalised input to what is added to the residual stream.
    pub fn record(&self, p: &mut Recorder, x: ValueId) -> ValueId {
        let gate_up = p.linear(x, self.gate_up);
        let x = p.silu_mul(gate_up);
        p.linear(x, self.down)
    }
}
