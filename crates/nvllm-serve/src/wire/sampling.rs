//! How tokens are drawn and what is told of them: the fields that all generating routes share.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::shared::{OneOrMany, StreamOptions};
use super::structured::{ResponseFormat, StructuredOutputs};

/// Which model, how its tokens are sampled, when it ends, and how the answer comes. What is absent
/// or null comes from the model's generation_config.json, or else is `OpenAI`'s default.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[schema(title = "Sampling")]
pub(crate) struct SamplingFields {
    /// A name of the model that is served; that one if absent.
    pub(crate) model: Option<String>,
    /// Divides the logits; 0 is greedy.
    pub(crate) temperature: Option<f32>,
    /// Keeps the likeliest tokens with this much probability together.
    pub(crate) top_p: Option<f32>,
    /// Keeps this many of the likeliest tokens; 0 or -1 keeps all.
    pub(crate) top_k: Option<i64>,
    /// Keeps tokens with at least this share of the largest probability.
    pub(crate) min_p: Option<f32>,
    /// Subtracted from a token's logit for each time it is in the output, -2 to 2.
    pub(crate) frequency_penalty: Option<f32>,
    /// Subtracted from the logits of tokens that are in the output, -2 to 2.
    pub(crate) presence_penalty: Option<f32>,
    /// Above 1 makes tokens of prompt and output less likely.
    pub(crate) repetition_penalty: Option<f32>,
    /// Added to single logits, by token id, -100 to 100.
    #[schema(value_type = Option<std::collections::HashMap<String, f32>>)]
    pub(crate) logit_bias: Option<Map<String, Value>>,
    /// The same seed gives the same tokens, whatever runs beside it; drawn if absent.
    pub(crate) seed: Option<i64>,
    /// Answers to each prompt.
    pub(crate) n: Option<i64>,
    /// As `n`: more candidates than answers are refused.
    pub(crate) best_of: Option<i64>,
    /// Tokens to generate at most.
    pub(crate) max_tokens: Option<i64>,
    /// No end before so many tokens.
    pub(crate) min_tokens: Option<i64>,
    /// Texts that end an answer.
    pub(crate) stop: Option<OneOrMany>,
    /// Tokens that end an answer.
    pub(crate) stop_token_ids: Option<Vec<u32>>,
    /// Whether the stop string or token is part of the answer.
    pub(crate) include_stop_str_in_output: Option<bool>,
    /// Go on past the model's end-of-text tokens.
    pub(crate) ignore_eos: Option<bool>,
    /// Whether special tokens are left out of the text, as they are by default.
    pub(crate) skip_special_tokens: Option<bool>,
    /// Only these tokens may be drawn.
    pub(crate) allowed_token_ids: Option<Vec<u32>>,
    /// Words that may not be in the answer.
    pub(crate) bad_words: Option<Vec<String>>,
    /// The form of the answer.
    pub(crate) response_format: Option<ResponseFormat>,
    /// The form of the answer, in vLLM's words.
    pub(crate) structured_outputs: Option<StructuredOutputs>,
    /// An old name of `structured_outputs.json`.
    pub(crate) guided_json: Option<Value>,
    /// An old name of `structured_outputs.regex`.
    pub(crate) guided_regex: Option<String>,
    /// An old name of `structured_outputs.choice`.
    pub(crate) guided_choice: Option<Vec<String>>,
    /// An old name of `structured_outputs.grammar`.
    pub(crate) guided_grammar: Option<String>,
    /// Log-probabilities of the prompt's tokens and of this many of the likeliest.
    pub(crate) prompt_logprobs: Option<i64>,
    /// Keep the last so many tokens of the prompt only; -1: as many as the context holds.
    pub(crate) truncate_prompt_tokens: Option<i64>,
    /// Add what the tokenizer puts around a text (Llama's `<s>`).
    pub(crate) add_special_tokens: Option<bool>,
    /// Smaller numbers are admitted earlier.
    pub(crate) priority: Option<i64>,
    /// Prompts share cached keys and values with those of the same salt only.
    pub(crate) cache_salt: Option<String>,
    /// Seconds after which the answer ends with what it has.
    pub(crate) timeout: Option<f64>,
    /// The id that the answer carries; that of the HTTP request if absent.
    pub(crate) request_id: Option<String>,
    /// Whether the answer has the ids of prompt and output tokens.
    pub(crate) return_token_ids: Option<bool>,
    /// Whether log-probabilities name a token `token_id:ID`.
    pub(crate) return_tokens_as_token_ids: Option<bool>,
    /// Whether the answer comes as server-sent events.
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
}
