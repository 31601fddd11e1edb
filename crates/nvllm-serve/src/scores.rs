//! Log-probabilities as the routes show them.

use nvllm_core::{TokenId, TokenLogprobs};
use nvllm_engine::text::Tokenizer;
use serde_json::{Map, Value, json};

use crate::wire::chat::{TokenLogprob, TopLogprob};
use crate::wire::completions::CompletionLogprobs;

/// What stands for minus infinity, which JSON cannot write.
const FLOOR: f32 = -9999.0;

/// A log-probability as a JSON value that is written as its f32 is elsewhere: clients compare the
/// two, and a value holds an f64, which would have more digits.
fn number(logprob: f32) -> Value {
    let logprob = logprob.max(FLOOR);
    json!(logprob.to_string().parse().unwrap_or(f64::from(logprob)))
}

/// How tokens are named beside their log-probabilities.
#[derive(Clone)]
pub(crate) struct TokenNames {
    pub(crate) tokenizer: std::sync::Arc<Tokenizer>,
    /// `token_id:5` in place of the text.
    pub(crate) as_ids: bool,
}

impl TokenNames {
    pub(crate) fn name(&self, token: TokenId) -> String {
        match self.tokenizer.token_bytes(token.0) {
            Some(bytes) if !self.as_ids => String::from_utf8_lossy(&bytes).into_owned(),
            _ => format!("token_id:{token}"),
        }
    }

    fn bytes(&self, token: TokenId) -> Option<Vec<u8>> {
        self.tokenizer.token_bytes(token.0)
    }

    /// A token of a chat's answer; `top` of the likeliest beside it.
    pub(crate) fn chat(&self, token: TokenId, scores: &TokenLogprobs, top: usize) -> TokenLogprob {
        let top_logprobs = scores.top.iter().take(top).map(|&(token, logprob)| TopLogprob {
            token: self.name(token),
            logprob: logprob.max(FLOOR),
            bytes: self.bytes(token),
        });
        TokenLogprob {
            token: self.name(token),
            logprob: scores.logprob.max(FLOOR),
            bytes: self.bytes(token),
            top_logprobs: top_logprobs.collect(),
        }
    }

    /// Appends a token of a completion, which begins at `offset` characters of the text. Returns
    /// where the next one begins.
    pub(crate) fn push(
        &self,
        to: &mut CompletionLogprobs,
        token: TokenId,
        scores: Option<&TokenLogprobs>,
        offset: usize,
    ) -> usize {
        let name = self.name(token);
        // A character belongs to the token that it begins in.
        let begins = |byte: &&u8| **byte & 0xC0 != 0x80;
        let next = offset + self.bytes(token).unwrap_or_default().iter().filter(begins).count();
        to.token_logprobs.push(scores.map(|scores| scores.logprob.max(FLOOR)));
        to.top_logprobs.push(scores.map(|scores| self.likeliest(&name, scores)));
        to.text_offset.push(offset);
        to.tokens.push(name);
        next
    }

    /// The likeliest tokens by name. The token itself is among them, with the number that it has
    /// beside them, as clients compare the two.
    fn likeliest(&self, name: &str, scores: &TokenLogprobs) -> Map<String, Value> {
        let mut likeliest = Map::new();
        for &(token, logprob) in &scores.top {
            // Parts of characters may have one name; the likelier goes first.
            likeliest.entry(self.name(token)).or_insert_with(|| number(logprob));
        }
        likeliest.entry(name).or_insert_with(|| number(scores.logprob));
        likeliest
    }

    /// A prompt token as vLLM shows it: by id, with its rank where that is known.
    pub(crate) fn prompt_row(&self, token: TokenId, scores: &TokenLogprobs) -> Value {
        let mut row = Map::new();
        let entry = |token: TokenId, logprob: f32, rank: Option<usize>| json!({ "logprob": number(logprob), "rank": rank, "decoded_token": self.name(token) });
        let rank = scores.top.iter().position(|(other, _)| *other == token).map(|at| at + 1);
        row.insert(token.to_string(), entry(token, scores.logprob, rank));
        for (at, &(other, logprob)) in scores.top.iter().enumerate() {
            row.entry(other.to_string()).or_insert_with(|| entry(other, logprob, Some(at + 1)));
        }
        row.into()
    }
}
