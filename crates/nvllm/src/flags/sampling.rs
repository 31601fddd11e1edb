//! Sampling flags over the model's own defaults.

use std::hash::{BuildHasher, RandomState};

use clap::Args;
use nvllm_core::{SamplingParams, TokenId};
use nvllm_engine::Model;

/// How tokens are drawn. What is not given comes from the model's generation_config.json.
#[derive(Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Tokens to generate at most.
    #[arg(short = 'n', long)]
    pub max_tokens: Option<usize>,
    /// 0 is greedy.
    #[arg(short, long, allow_hyphen_values = true)]
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens; 0 keeps all.
    #[arg(long)]
    pub top_k: Option<u32>,
    /// Keep the most likely tokens that have this much probability together.
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Keep tokens with at least this share of the largest probability.
    #[arg(long)]
    pub min_p: Option<f32>,
    /// Above 1: makes tokens of prompt and output less likely.
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
    /// Subtracted from the logit of a token that is in the output.
    #[arg(long, allow_hyphen_values = true)]
    pub presence_penalty: Option<f32>,
    /// Subtracted from the logit of a token once for each time it is in the output.
    #[arg(long, allow_hyphen_values = true)]
    pub frequency_penalty: Option<f32>,
    /// Add a number to a token's logit.
    #[arg(long, value_name = "TOKEN_ID=BIAS", value_parser = parse_bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws: the same seed gives the same text. Random, and reported, if not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Stop before this text; may be given several times.
    #[arg(long)]
    pub stop: Vec<String>,
    /// Go on past the model's end-of-text tokens.
    #[arg(long)]
    pub ignore_eos: bool,
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "use TOKEN_ID=BIAS, as in 42=-1.5".into())
}

/// The parameters for one request.
pub(crate) fn params(args: &SamplingArgs, model: &Model) -> SamplingParams {
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
