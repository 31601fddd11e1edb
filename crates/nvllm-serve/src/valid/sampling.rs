//! The fields that all generating routes share, as an engine's request without its prompt.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use nvllm_core::{SamplingParams, TokenId};
use nvllm_engine::Request;
use serde_json::{Map, Value};

use super::structured::Structured;
use super::within;
use crate::error::ApiError;
use crate::served::{Scheduling, Served};
use crate::wire::sampling::SamplingFields;

/// Stop strings of one request: each token's text is searched for all of them.
const MAX_STOPS: usize = 64;
/// Longest stop string, in bytes.
const MAX_STOP_LEN: usize = 1024;
/// Log-probabilities of this many of the likeliest tokens at most.
pub(crate) const MAX_TOP_LOGPROBS: i64 = 20;
/// Bad words of one request, and the bytes of one.
const MAX_BAD_WORDS: usize = 256;
const MAX_BAD_WORD: usize = 256;
/// Stop tokens of one request: each of its tokens is compared with all of them.
const MAX_STOP_TOKENS: usize = 256;
/// Biased logits of one request.
const MAX_LOGIT_BIASES: usize = 4096;
/// Longest id that a client may give its request.
const MAX_REQUEST_ID: usize = 256;
/// Longest salt, as vLLM has it.
const MAX_SALT: usize = 128;
/// Longest time until a deadline: a week.
const MAX_TIMEOUT: f64 = 7.0 * 24.0 * 3600.0;

/// How an answer is generated and told.
#[derive(Clone, Debug)]
pub(crate) struct ValidSampling {
    /// The engine's request; its prompt is empty, and its grammar is yet to be compiled.
    pub(crate) request: Request,
    /// What the answer is to follow.
    pub(crate) structured: Option<Structured>,
    pub(crate) stream: Option<ValidStream>,
    pub(crate) truncate: Option<Truncate>,
    pub(crate) add_special_tokens: Option<bool>,
    pub(crate) request_id: Option<String>,
    pub(crate) return_token_ids: bool,
    pub(crate) tokens_as_ids: bool,
}

/// That an answer is streamed, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ValidStream {
    /// A last chunk with the usage.
    pub(crate) usage: bool,
    /// The usage in every chunk.
    pub(crate) continuous_usage: bool,
}

/// How much of a prompt's end is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truncate {
    ToContext,
    To(usize),
}

impl ValidSampling {
    /// Errors with the first field that is out of range.
    pub(crate) fn new(wire: SamplingFields, served: &Served) -> Result<Self, ApiError> {
        served.check_name(wire.model.as_deref())?;
        let mut wire = if served.neutral_is_absent { without_neutral(wire) } else { wire };
        let structured = Structured::new(&mut wire)?;
        let n = within("n", wire.n, 1, i64::MAX)?;
        if let Some(best_of) = wire.best_of.filter(|best_of| *best_of != n.unwrap_or(1) as i64) {
            let problem = format!(
                "is {best_of}; more candidates than answers are not supported: leave it out, and use n"
            );
            return Err(ApiError::bad("best_of", problem));
        }
        let sampling = sampling(&wire, served)?;
        sampling.check(served.vocab_size).map_err(|e| ApiError::from(nvllm_engine::EngineError::from(e)))?;
        let prompt_logprobs = within("prompt_logprobs", wire.prompt_logprobs, 0, MAX_TOP_LOGPROBS)?;
        let stream = wire.stream.unwrap_or(false);
        if wire.stream_options.is_some() && !stream {
            return Err(ApiError::bad("stream_options", "is for streams; give stream: true with it"));
        }
        let options = wire.stream_options.unwrap_or_default();
        Ok(Self {
            request: Request {
                stop: stop(&wire, served)?,
                include_stop: wire.include_stop_str_in_output.unwrap_or(false),
                show_special_tokens: wire.skip_special_tokens == Some(false),
                prompt_logprobs: prompt_logprobs.map(|k| k as u16),
                n,
                max_tokens: within("max_tokens", wire.max_tokens, 1, i64::MAX)?,
                priority: priority(wire.priority, served)?,
                deadline: deadline(wire.timeout)?,
                cache_salt: salt(wire.cache_salt)?,
                allowed_tokens: allowed_tokens(wire.allowed_token_ids, served)?,
                bad_words: bad_words(&wire.bad_words.unwrap_or_default(), served)?,
                sampling,
                ..Request::default()
            },
            structured,
            stream: stream.then(|| ValidStream {
                usage: options.include_usage.unwrap_or(false),
                continuous_usage: options.continuous_usage_stats.unwrap_or(false),
            }),
            truncate: truncate(wire.truncate_prompt_tokens)?,
            add_special_tokens: wire.add_special_tokens,
            request_id: request_id(wire.request_id)?,
            return_token_ids: wire.return_token_ids.unwrap_or(false),
            tokens_as_ids: wire.return_tokens_as_token_ids.unwrap_or(false),
        })
    }
}

fn sampling(wire: &SamplingFields, served: &Served) -> Result<SamplingParams, ApiError> {
    let given = &served.sampling;
    within("top_k", wire.top_k, -1, i64::from(u32::MAX))?;
    Ok(SamplingParams {
        temperature: wire.temperature.unwrap_or(given.temperature),
        top_p: wire.top_p.unwrap_or(given.top_p),
        top_k: wire.top_k.map_or(given.top_k, |k| k.max(0) as u32),
        min_p: wire.min_p.unwrap_or(given.min_p),
        repetition_penalty: wire.repetition_penalty.unwrap_or(given.repetition_penalty),
        presence_penalty: wire.presence_penalty.unwrap_or(given.presence_penalty),
        frequency_penalty: wire.frequency_penalty.unwrap_or(given.frequency_penalty),
        logit_bias: logit_bias(wire.logit_bias.as_ref())?,
        // Short, so that it can be read in a log and given again.
        seed: wire.seed.map_or_else(|| RandomState::new().hash_one(0) >> 32, |seed| seed as u64),
        min_tokens: within("min_tokens", wire.min_tokens, 0, i64::from(u32::MAX))?.unwrap_or(0) as u32,
        stop_tokens: stop_tokens(wire, served)?,
        choice: 0,
    })
}

/// Without what spells out what most servers take for absent fields.
fn without_neutral(wire: SamplingFields) -> SamplingFields {
    let is_neutral = wire.temperature == Some(1.0)
        && wire.top_p == Some(1.0)
        && wire.top_k == Some(-1)
        && wire.min_p == Some(0.0)
        && wire.repetition_penalty == Some(1.0);
    if !is_neutral {
        return wire;
    }
    SamplingFields {
        temperature: None,
        top_p: None,
        top_k: None,
        min_p: None,
        repetition_penalty: None,
        ..wire
    }
}

/// The model's end tokens and the request's own, each once.
fn stop_tokens(wire: &SamplingFields, served: &Served) -> Result<Vec<TokenId>, ApiError> {
    let given: BTreeSet<u32> = wire.stop_token_ids.iter().flatten().copied().collect();
    if given.len() > MAX_STOP_TOKENS {
        let problem = format!("has {} tokens; give at most {MAX_STOP_TOKENS}", given.len());
        return Err(ApiError::bad("stop_token_ids", problem));
    }
    let own = if wire.ignore_eos == Some(true) { &[][..] } else { &served.eos };
    let more = given.into_iter().map(TokenId).filter(|token| !own.contains(token));
    Ok(own.iter().copied().chain(more).collect())
}

/// Each token once: there are no more than the vocabulary has.
fn allowed_tokens(wire: Option<Vec<u32>>, served: &Served) -> Result<Option<Vec<TokenId>>, ApiError> {
    let Some(ids) = wire else { return Ok(None) };
    let ids: BTreeSet<u32> = ids.into_iter().collect();
    match ids.last() {
        Some(&last) if (last as usize) < served.vocab_size => {
            Ok(Some(ids.into_iter().map(TokenId).collect()))
        }
        Some(last) => {
            let problem = format!("has {last}; the model has tokens 0 to {}", served.vocab_size - 1);
            Err(ApiError::bad("allowed_token_ids", problem))
        }
        None => Err(ApiError::bad("allowed_token_ids", "is empty; give a token, or leave it out")),
    }
}

fn logit_bias(wire: Option<&Map<String, Value>>) -> Result<Vec<(TokenId, f32)>, ApiError> {
    if let Some(len) = wire.map(Map::len).filter(|len| *len > MAX_LOGIT_BIASES) {
        let problem = format!("has {len} entries; give at most {MAX_LOGIT_BIASES}");
        return Err(ApiError::bad("logit_bias", problem));
    }
    let entry = |(id, bias): (&String, &Value)| {
        let bias = bias.as_f64().map(|bias| bias as f32);
        let parsed = id.parse().ok().zip(bias).map(|(id, bias)| (TokenId(id), bias));
        let problem = "must have token ids as names and numbers from -100 to 100 as values";
        parsed.ok_or_else(|| ApiError::bad("logit_bias", format!("{problem}; {id:?} has {bias:?}")))
    };
    wire.into_iter().flatten().map(entry).collect()
}

fn stop(wire: &SamplingFields, served: &Served) -> Result<Vec<String>, ApiError> {
    let stops = wire.stop.clone().map(crate::wire::shared::OneOrMany::into_vec).unwrap_or_default();
    if stops.len() > MAX_STOPS {
        let problem = format!("has {} strings; give at most {MAX_STOPS}", stops.len());
        return Err(ApiError::bad("stop", problem));
    }
    if let Some(index) = stops.iter().position(|stop| stop.is_empty() || stop.len() > MAX_STOP_LEN) {
        let problem = format!("has {} bytes; give 1 to {MAX_STOP_LEN}", stops[index].len());
        return Err(ApiError::bad(format!("stop[{index}]"), problem));
    }
    let own = if wire.ignore_eos == Some(true) { &[][..] } else { &served.stop_strings };
    Ok(stops.into_iter().chain(own.iter().cloned()).collect())
}

fn priority(wire: Option<i64>, served: &Served) -> Result<i32, ApiError> {
    let priority = wire.unwrap_or(0);
    if priority != 0 && served.scheduling != Scheduling::Priority {
        let problem = "needs a server that was started with --scheduling-policy priority; leave it out";
        return Err(ApiError::bad("priority", problem));
    }
    i32::try_from(priority)
        .map_err(|_| ApiError::bad("priority", format!("is {priority}; give {} to {}", i32::MIN, i32::MAX)))
}

fn deadline(timeout: Option<f64>) -> Result<Option<Instant>, ApiError> {
    let Some(seconds) = timeout else { return Ok(None) };
    if !(seconds > 0.0 && seconds <= MAX_TIMEOUT) {
        let problem = format!("is {seconds}; give seconds above 0 and up to {MAX_TIMEOUT}");
        return Err(ApiError::bad("timeout", problem));
    }
    Ok(Instant::now().checked_add(Duration::from_secs_f64(seconds)))
}

fn salt(wire: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(salt) = wire else { return Ok(None) };
    if salt.is_empty() || salt.len() > MAX_SALT || salt.contains(['@', '/', '\\', '\0']) {
        let problem = format!("must have 1 to {MAX_SALT} bytes, none of them @, /, \\ or NUL");
        return Err(ApiError::bad("cache_salt", problem));
    }
    Ok(Some(salt))
}

pub(crate) fn truncate(wire: Option<i64>) -> Result<Option<Truncate>, ApiError> {
    Ok(match wire {
        None => None,
        Some(-1) => Some(Truncate::ToContext),
        Some(_) => within("truncate_prompt_tokens", wire, 1, i64::MAX)?.map(Truncate::To),
    })
}

fn request_id(wire: Option<String>) -> Result<Option<String>, ApiError> {
    match wire {
        Some(id) if id.is_empty() || id.len() > MAX_REQUEST_ID || !id.is_ascii() => {
            let problem = format!("must have 1 to {MAX_REQUEST_ID} ASCII characters");
            Err(ApiError::bad("request_id", problem))
        }
        id => Ok(id),
    }
}

/// `bad_words` as tokens: each as it is written, and as it is within a sentence, after a space.
fn bad_words(words: &[String], served: &Served) -> Result<Vec<Vec<TokenId>>, ApiError> {
    if words.len() > MAX_BAD_WORDS {
        let problem = format!("has {} words; give at most {MAX_BAD_WORDS}", words.len());
        return Err(ApiError::bad("bad_words", problem));
    }
    let mut sequences = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let word = word.trim_start();
        if word.is_empty() || word.len() > MAX_BAD_WORD {
            let problem = format!("has {} bytes; give 1 to {MAX_BAD_WORD}", word.len());
            return Err(ApiError::bad(format!("bad_words[{index}]"), problem));
        }
        for form in [word.to_owned(), format!(" {word}")] {
            let ids = served.tokenizer()?.encode(&form, nvllm_engine::text::EncodeOptions::default())?;
            let sequence: Vec<_> = ids.into_iter().map(TokenId).collect();
            if !sequence.is_empty() && !sequences.contains(&sequence) {
                sequences.push(sequence);
            }
        }
    }
    Ok(sequences)
}
