//! Sampling flags over the model's own defaults.

use std::hash::{BuildHasher, RandomState};

use nvllm_core::{SamplingParams, TokenId};
use nvllm_engine::Model;

use crate::cli::SamplingArgs;

/// The parameters for one request.
pub(super) fn params(args: &SamplingArgs, model: &Model) -> SamplingParams {
    let given = model.sampling();
    SamplingParams {
        temperature: args.temperature.unwrap_or(given.temperature),
        top_k: args.top_k.unwrap_or(given.top_k),
        top_p: args.top_p.unwrap_or(given.top_p),
        min_p: args.min_p.unwrap_or(given.min_p),
        repetition_penalty: args.repetition_penalty.unwrap_or(given.repetition_penalty),
        presence_penalty: args.presence_penalty.unwrap_or(given.presence_penalty),
        frequency_penalty: args.frequency_penalty.unwrap_or(given.frequency_penalty),
        logit_bias: args.logit_bias.iter().map(|&(id, bias)| (TokenId(id), bias)).collect(),
        // The hasher's keys are the operating system's randomness. Short, so that it can be typed again.
        seed: args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32),
        stop_tokens: if args.ignore_eos { Vec::new() } else { given.stop_tokens },
        ..SamplingParams::default()
    }
}
