//! What the device thread has to say of a request, values that are no numbers included.

use std::time::Instant;

use nvllm_core::{Tensor, TokenId, TokenLogprobs};
use nvllm_sched::FinishReason;

/// What the device thread says of one choice of a request.
pub(crate) enum Output {
    /// It has a slot.
    Admitted { at: Instant, cached_tokens: usize },
    /// A row of its prompt was computed.
    PromptRow { index: usize, logprobs: Option<TokenLogprobs>, logits: Option<Box<dyn Tensor>> },
    /// A token was sampled, in a step that was collected at `at`.
    Token { token: TokenId, logprobs: Option<TokenLogprobs>, logits: Option<Box<dyn Tensor>>, at: Instant },
    /// The device thread has ended it. An error belongs to [`FinishReason::Failed`].
    Finished { reason: FinishReason, error: Option<String> },
}

/// Why a request ends whose logits are no numbers.
pub(crate) const NOT_NUMBERS: &str = "the model's logits are not numbers (NaN or infinity): its weights are damaged, or values \
                                      between ops overflow; check the files, or give --activations f32";

/// Why an embedding fails that is no numbers.
pub(crate) const EMBEDDING_NOT_NUMBERS: &str = "the model's hidden states are not numbers (NaN or infinity): its weights are damaged, or \
                                                values between ops overflow; check the files, or give --activations f32";
