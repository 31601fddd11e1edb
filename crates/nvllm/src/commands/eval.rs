//! `nvllm eval`: how well a model predicts a text, and how far it is from another.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use nvllm_core::TokenId;
use nvllm_core::weight::formats;
use nvllm_engine::eval::{Evaluation, Windows, evaluate};
use nvllm_engine::text::{EncodeOptions, SpecialText};
use nvllm_engine::{Engine, EngineInfo, LoadOptions, Model};
use serde_json::{Value, json};

use crate::flags::{KvCacheDtype, ModelArgs, number};
use crate::human::{bytes, count};
use crate::output::{note, outln};
use crate::progress::Progress;
use crate::{backends, models};

#[derive(Args)]
#[command(
    after_help = "A text is read in windows of --window tokens, --stride tokens apart; each token but the first is scored
once, by the first window that holds it. KL is the mean Kullback-Leibler divergence of a token's
distribution from the reference's, in nats; top-1 the share of tokens at whose place both find the
same one most likely.

Examples:
  nvllm eval --text book.txt
  nvllm eval --quantize int4 --text book.txt
  nvllm eval --kv-cache-dtype fp8 --text book.txt
  nvllm eval -m Qwen/Qwen3-0.6B-GPTQ-Int4 --reference Qwen/Qwen3-0.6B --text book.txt --json"
)]
pub(crate) struct Eval {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text, a file in UTF-8.
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// A model to compare with, of the same vocabulary: as --model; loaded by the same flags, but
    /// for --quantize and a --kv-cache-dtype of 8 bits. With one of these it is the model without
    /// them, if not given.
    #[arg(long, value_name = "MODEL", value_parser = NonEmptyStringValueParser::new())]
    pub reference: Option<String>,
    /// Tokens of a window; 512, or the model's context if that is less, if not given.
    #[arg(long, value_parser = number::positive)]
    pub window: Option<usize>,
    /// Tokens from one window's beginning to the next one's; half a window if not given.
    #[arg(long, value_parser = number::positive)]
    pub stride: Option<usize>,
    /// Read the text's first tokens only, so many.
    #[arg(long, value_name = "N", value_parser = number::positive)]
    pub tokens: Option<usize>,
    /// Print JSON, in one line: a record.
    #[arg(long)]
    pub json: bool,
}

/// Tokens of a window, if nobody says otherwise.
const WINDOW: usize = 512;

pub(super) fn run(args: &Eval) -> Result<()> {
    let text = std::fs::read(&args.text).with_context(|| format!("--text {}", args.text.display()))?;
    let text = String::from_utf8(text)
        .map_err(|e| anyhow::anyhow!("--text {}: it is not UTF-8: {e}", args.text.display()))?;
    let (engine, model) = start(args, args.model.model.as_deref(), true)?;
    let literal = EncodeOptions { add_special_tokens: false, special_text: SpecialText::Literal };
    let mut ids: Vec<_> = model.tokenizer()?.encode(&text, literal)?.into_iter().map(TokenId).collect();
    ids.truncate(args.tokens.unwrap_or(usize::MAX));
    let load = &args.model.load;
    let compared = match &args.reference {
        None if load.quantize.quantize.is_some() || load.kv_cache_dtype.is_coded() => {
            Some(args.model.model.as_deref())
        }
        name => name.as_deref().map(Some),
    };
    let reference = compared.map(|name| start(args, name, false)).transpose()?;
    if let Some((_, other)) = &reference
        && other.spec.vocab_size != model.spec.vocab_size
    {
        let (ours, its) = (model.spec.vocab_size, other.spec.vocab_size);
        bail!("--reference: its vocabulary has {its} tokens, the model's {ours}: they cannot be compared");
    }
    let windows = windows(args, &model);
    let bar = Progress::tokens("scoring");
    let begin = Instant::now();
    let mut shown = |done: usize, total: usize| bar.set(done as u64, total as u64);
    let found = evaluate(&engine, reference.as_ref().map(|(engine, _)| engine), &ids, windows, &mut shown);
    bar.end();
    let found = found?;
    let rate = found.tokens as f64 / begin.elapsed().as_secs_f64();
    let info = engine.info()?;
    let loaded: usize = info.weights.iter().map(nvllm_core::WeightInfo::bytes).sum();
    if args.json {
        outln!("{}", described(args, &model, info, &found, rate))?;
        return Ok(());
    }
    outln!("model       {}, {} in memory in {}", model.name, bytes(loaded), loaded_formats(info))?;
    outln!("tokens      {}, windows of {} at a stride of {}", found.tokens, windows.len, windows.stride)?;
    outln!("perplexity  {:.4}", found.perplexity())?;
    if let Some(against) = found.against {
        outln!("reference   {:.4}", against.nll.exp())?;
        outln!("KL          {:.6} nats, {:.4} at most", against.mean_kl, against.largest_kl)?;
        outln!("top-1       {:.2} % equal", 100.0 * against.top1)?;
    }
    note!("{} scored, {rate:.0} a second", count(found.tokens, "token"));
    Ok(())
}

fn windows(args: &Eval, model: &Model) -> Windows {
    let len = args.window.unwrap_or(WINDOW.min(model.spec.max_positions));
    Windows { len, stride: args.stride.unwrap_or((len / 2).max(1)) }
}

/// An engine that hands out the logits of whole steps; with the weights that `--quantize` asks for,
/// and a KV cache of codes, if it is the one in question.
fn start(args: &Eval, name: Option<&str>, quantized: bool) -> Result<(Engine, Arc<Model>)> {
    let mut load = args.model.load.clone();
    if !quantized {
        load.quantize.quantize = None;
        if load.kv_cache_dtype.is_coded() {
            load.kv_cache_dtype = KvCacheDtype::Auto;
        }
    }
    let options = backends::load_options(&load, Some(1));
    let step_tokens = options.max_num_batched_tokens.unwrap_or(WINDOW);
    let options =
        LoadOptions { max_num_batched_tokens: Some(step_tokens), max_num_logits: step_tokens, ..options };
    models::start_with(&ModelArgs { model: name.map(str::to_owned), load }, options)
}

/// The formats of the weights as they are loaded, those of most bytes first.
fn loaded_formats(info: &EngineInfo) -> String {
    let formats = formats(info.weights.iter().flat_map(|weight| &weight.parts));
    formats.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// One line, as `bench/records/quality` keeps it.
fn described(args: &Eval, model: &Model, info: &EngineInfo, found: &Evaluation, rate: f64) -> Value {
    let Windows { len, stride } = windows(args, model);
    let name =
        |path: &str| Path::new(path).file_name().map_or(path.into(), |n| n.to_string_lossy().into_owned());
    let mut report = json!({
        "commit": concat!("version ", env!("CARGO_PKG_VERSION")),
        "model": name(&model.name),
        "weights": loaded_formats(info),
        "flags": args.model.load.quantize.flags(),
        "backend": info.backend.name,
        "device": info.backend.device,
        "activations": info.limits.activations,
        "kv_cache": info.limits.kv_format,
        "text": name(&args.text.to_string_lossy()),
        "tokens": found.tokens,
        "window": len,
        "stride": stride,
        "weight_bytes": info.weights.iter().map(nvllm_core::WeightInfo::bytes).sum::<usize>(),
        "nll": found.nll,
        "perplexity": found.perplexity(),
        "tokens_per_second": rate,
    });
    if let Some(against) = found.against {
        report["reference"] = json!({
            "model": args.reference.as_deref().map_or_else(|| name(&model.name), name),
            "nll": against.nll,
            "perplexity": against.nll.exp(),
            "mean_kl": against.mean_kl,
            "largest_kl": against.largest_kl,
            "top1": against.top1,
        });
    }
    report
}
