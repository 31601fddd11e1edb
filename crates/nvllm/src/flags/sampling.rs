//! Sampling flags over the model's own defaults.

use std::hash::{BuildHasher as _, RandomState};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use nvllm_core::{SamplingParams, TokenId};
use nvllm_engine::Model;

use super::number::OrNone;
use crate::output::note;
use crate::words::{self, BadArgument};

/// How tokens are drawn. What is not given comes from the model's generation_config.json.
#[derive(Args, Clone)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Tokens to generate at most; -1: as many as the context holds [default: the model's, else
    /// 256, in chat 1024].
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    pub max_tokens: Option<OrNone<usize>>,
    /// Higher is more random, 0 is greedy [default: the model's, else 1].
    #[arg(short, long, visible_alias = "temp", value_name = "T", allow_hyphen_values = true)]
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens; 0 or -1 keeps all [default: the model's, else all].
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub top_k: Option<OrNone<u32>>,
    /// Keep the most likely tokens that have this much probability together [default: the model's,
    /// else 1].
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub top_p: Option<f32>,
    /// Keep tokens with at least this share of the largest probability [default: the model's, else
    /// 0].
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub min_p: Option<f32>,
    /// Above 1: makes tokens of prompt and output less likely [default: the model's, else 1].
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    pub repetition_penalty: Option<f32>,
    /// Subtracted from the logit of a token that is in the output [default: 0].
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    pub presence_penalty: Option<f32>,
    /// Subtracted from the logit of a token once for each time it is in the output [default: 0].
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    pub frequency_penalty: Option<f32>,
    /// Add a number to a token's logit; may be given several times.
    #[arg(long, value_name = "TOKEN_ID=BIAS", value_parser = parse_bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws: the same seed gives the same text; -1 draws one [default: random, and
    /// reported].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<OrNone<u64>>,
    /// Stop before this text; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Go on past the model's end-of-text tokens.
    #[arg(long)]
    pub ignore_eos: bool,
}

impl SamplingArgs {
    /// `--max-tokens`, else what the model's authors ask for, else `default`; none is as many as
    /// the context holds.
    pub(crate) fn max_tokens(&self, model: &Model, default: usize) -> Option<usize> {
        let default = model.generation.max_new_tokens.unwrap_or(default);
        self.max_tokens.map_or(Some(default), |OrNone(number)| number)
    }

    /// `--stop`, and the texts at which the model's authors let it end.
    pub(crate) fn stop(&self, model: &Model) -> Vec<String> {
        let own: &[String] = if self.ignore_eos { &[] } else { &model.generation.stop_strings };
        self.stop.iter().chain(own).cloned().collect()
    }

    /// Says what of the model's generation_config.json is not followed, unless a flag says
    /// otherwise anyway.
    pub(crate) fn warn_of_defaults(&self, model: &Model) {
        let overridden = |field: &str| match field {
            "temperature" | "do_sample" => self.temperature.is_some(),
            "top_k" => self.top_k.is_some(),
            "top_p" => self.top_p.is_some(),
            "min_p" => self.min_p.is_some(),
            "repetition_penalty" => self.repetition_penalty.is_some(),
            "max_new_tokens" => self.max_tokens.is_some(),
            "eos_token_id" | "stop_strings" => self.ignore_eos,
            _ => false,
        };
        let remarks = model.generation.remarks.iter();
        for remark in remarks.filter(|remark| !remark.field.as_deref().is_some_and(overridden)) {
            note!("note: {}", remark.message);
        }
    }

    /// Refuses a number out of its range as a bad command line: needs no model, so it comes before
    /// one is fetched or loaded.
    pub(crate) fn check(&self) -> Result<(), BadArgument> {
        let ranges = self.over(SamplingParams::default()).check_ranges();
        ranges.map_err(|e| BadArgument(words::sampling(&e).unwrap_or_else(|| e.to_string())))
    }

    /// Refuses tokens that the model does not have, those of its own defaults included.
    pub(crate) fn check_tokens(&self, model: &Model) -> nvllm_core::Result<()> {
        params(self, model).check(model.spec.vocab_size)
    }

    /// The parameters that the flags ask for, and `given` for what they leave out.
    fn over(&self, given: SamplingParams) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature.unwrap_or(given.temperature),
            top_k: self.top_k.map_or(given.top_k, |OrNone(k)| k.unwrap_or(0)),
            top_p: self.top_p.unwrap_or(given.top_p),
            min_p: self.min_p.unwrap_or(given.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(given.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(given.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(given.frequency_penalty),
            logit_bias: self.logit_bias.iter().map(|&(id, bias)| (TokenId(id), bias)).collect(),
            ..given
        }
    }
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "use TOKEN_ID=BIAS, as in 42=-1.5".into())
}

/// The parameters for one request.
pub(crate) fn params(args: &SamplingArgs, model: &Model) -> SamplingParams {
    let given = args.over(model.sampling());
    SamplingParams {
        // The hasher's keys are the operating system's randomness. Short, so that it can be typed
        // again.
        seed: args.seed.and_then(|OrNone(seed)| seed).unwrap_or_else(|| RandomState::new().hash_one(0) >> 32),
        stop_tokens: if args.ignore_eos { Vec::new() } else { given.stop_tokens },
        ..given
    }
}
