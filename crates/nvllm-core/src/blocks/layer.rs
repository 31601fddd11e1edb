//! A pre-norm layer: attention and a feed-forward, each behind a norm and added to what came in.

use super::{GatedMlp, GqaAttention, GqaShape, Scope};
use crate::program::Recorder;
use crate::{KvLayer, SpecBuilder, ValueId, WeightId};

/// A layer's feed-forward: from the normalised input to what is added to the residual stream.
pub trait FeedForward {
    /// Records its ops.
    fn record(&self, p: &mut Recorder, x: ValueId) -> ValueId;
}

impl FeedForward for GatedMlp {
    fn record(&self, p: &mut Recorder, x: ValueId) -> ValueId {
        self.record(p, x)
    }
}

/// One layer with the feed-forward `F`.
pub struct DecoderLayer<F> {
    input_norm: WeightId,
    attention: GqaAttention,
    post_norm: WeightId,
    feed_forward: F,
}

impl<F: FeedForward> DecoderLayer<F> {
    /// Declares `input_norm`, the attention, `post_norm`, and then what `feed_forward` declares.
    /// Keys and values go to `kv`.
    pub fn declare(
        b: &mut SpecBuilder,
        scope: &Scope,
        attention: &GqaShape,
        kv: KvLayer,
        feed_forward: impl FnOnce(&mut SpecBuilder) -> F,
    ) -> Self {
        Self {
            input_norm: scope.vector(b, "input_norm", "input_layernorm.weight", attention.hidden),
            attention: GqaAttention::declare(b, scope, attention, kv),
            post_norm: scope.vector(b, "post_norm", "post_attention_layernorm.weight", attention.hidden),
            feed_forward: feed_forward(b),
        }
    }

    /// Takes the residual stream through the layer; `eps` is that of both norms.
    pub fn record(&self, p: &mut Recorder, h: ValueId, eps: f32) -> ValueId {
        let x = p.rms_norm(h, self.input_norm, eps);
        let x = self.attention.record(p, x);
        let h = p.add(h, x);
        let x = p.rms_norm(h, self.post_norm, eps);
        let x = self.feed_forward.record(p, x);
        p.add(h, x)
    }
}
