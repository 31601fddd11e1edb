//! What a committed step meant for its sequences.

use nvllm_core::{SeqId, Tensor, TokenId, TokenLogprobs};

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// It sampled one of its stop tokens, which is the last token reported.
    StopToken(TokenId),
    /// Its text holds a stop string: the engine's finding.
    StopString,
    /// It follows a grammar that nothing may be added to, and could not sample a stop token: the
    /// engine's finding.
    Complete,
    /// It has as many tokens as were asked for, or as the context holds.
    Length,
    /// The client gave up.
    Aborted,
    /// The backend could not run one of its steps.
    Failed,
    /// No token was left to sample: what its request allows bars all. The engine's finding.
    Barred,
    /// Its deadline has passed.
    Deadline,
    /// The model's logits were NaN or infinite where a token was to be sampled or scored.
    Unusable,
}

/// A sequence that was given a slot, in the order of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The sequence.
    pub seq: SeqId,
    /// Tokens whose keys and values were in the cache already, left there by other sequences, by
    /// another choice of the same prompt, or by itself before it was preempted.
    pub cached_tokens: usize,
    /// Whether it was preempted before: it had a slot already.
    pub resumed: bool,
}

/// One piece of news of a sequence. Within a sequence events come in the order of its tokens, and
/// the last is [`Finished`](Self::Finished).
pub enum SeqEvent {
    /// A row of the prompt that was asked for, or its scores.
    PromptRow {
        /// The sequence.
        seq: SeqId,
        /// Index in the prompt of the token that the row was computed from; it predicts the token
        /// after it.
        index: usize,
        /// Of the prompt's next token, if prompt scores were asked for and there is one.
        logprobs: Option<TokenLogprobs>,
        /// Logits `[vocab]` f32, if asked for; or what else the sequence's entry hands out.
        logits: Option<Box<dyn Tensor>>,
    },
    /// A sampled token.
    Token {
        /// The sequence.
        seq: SeqId,
        /// Index in the sequence, prompt included, of the row that it was sampled from. The first
        /// is the prompt's last.
        index: usize,
        /// The token. A stop token is reported like any other.
        token: TokenId,
        /// Of the token, if asked for.
        logprobs: Option<TokenLogprobs>,
        /// Logits `[vocab]` f32 that it was sampled from, if asked for.
        logits: Option<Box<dyn Tensor>>,
    },
    /// The end. No later event names the sequence.
    Finished {
        /// The sequence.
        seq: SeqId,
        /// Why.
        reason: FinishReason,
    },
}

impl SeqEvent {
    /// The sequence.
    pub const fn seq(&self) -> SeqId {
        match self {
            Self::PromptRow { seq, .. } | Self::Token { seq, .. } | Self::Finished { seq, .. } => *seq,
        }
    }
}

impl std::fmt::Debug for SeqEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PromptRow { seq, index, logprobs, logits } => f
                .debug_struct("PromptRow")
                .field("seq", seq)
                .field("index", index)
                .field("logprobs", logprobs)
                .field("logits", &logits.as_ref().map(|t| t.shape()))
                .finish(),
            Self::Token { seq, index, token, logprobs, logits } => f
                .debug_struct("Token")
                .field("seq", seq)
                .field("index", index)
                .field("token", token)
                .field("logprobs", logprobs)
                .field("logits", &logits.as_ref().map(|t| t.shape()))
                .finish(),
            Self::Finished { seq, reason } => {
                f.debug_struct("Finished").field("seq", seq).field("reason", reason).finish()
            }
        }
    }
}
