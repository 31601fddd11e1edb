//! `nvllm info`: what a model is.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use nvllm_core::SamplingParams;
use nvllm_engine::{EngineError, LoadOptions, LoadPlan, Model};
use serde_json::{Value, json};

use crate::backends;
use crate::flags::{DeviceArgs, ModelName, QuantizeArgs};
use crate::human::{bytes, count, short};
use crate::models;
use crate::output::outln;
use crate::shape::Shape;
use crate::words::printable;

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm info
  nvllm info Qwen/Qwen3-0.6B --json")]
pub(crate) struct Info {
    #[command(flatten)]
    pub model: ModelName,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub quantize: QuantizeArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Print the recorded program as well.
    #[arg(long)]
    pub program: bool,
}

pub(super) fn run(args: &Info) -> Result<()> {
    let model = models::quantize(models::open(args.model.get())?, &args.quantize)?;
    model.spec.check_weights(model.source.as_ref()).map_err(EngineError::from)?;
    let path = args.model.get().map(|_| model.name.as_str());
    let shape = Shape::of(&model.spec);
    let loaded = Loaded::of(&model, &args.device)?;
    if args.json {
        let mut report = described(&model, path, shape.as_ref(), &loaded)?;
        if args.program {
            let programs = model.spec.programs.iter().map(ToString::to_string);
            report["program"] = programs.collect::<String>().into();
        }
        outln!("{report:#}")?;
        return Ok(());
    }
    print(&model, path, shape.as_ref(), &loaded)?;
    if args.program {
        for program in &model.spec.programs {
            outln!("{}", program.to_string().trim_end())?;
        }
    }
    Ok(())
}

/// For programs, under the names of Hugging Face's config.json where it has them.
fn described(model: &Model, path: Option<&str>, shape: Option<&Shape>, loaded: &Loaded) -> Result<Value> {
    let kinds = by_kind(model)?.into_iter().map(|(kind, (parameters, bytes))| {
        (kind.to_owned(), json!({ "parameters": parameters, "bytes": bytes }))
    });
    let formats: Vec<_> = model.weight_formats()?.iter().map(ToString::to_string).collect();
    let sampling = model.sampling();
    let mut report = json!({
        "model": model.name,
        "path": path,
        "architecture": model.spec.name,
        "dtype": model.dtype,
        "formats": formats,
        "parameters": model.spec.num_parameters(),
        "bytes": model.weight_bytes()?,
        "backend": loaded.backend,
        "bytes_in_memory": loaded.bytes,
        "expanded_formats": loaded.expanded,
        "weights": kinds.collect::<serde_json::Map<_, _>>(),
        "vocab_size": model.spec.vocab_size,
        "max_positions": model.spec.max_positions,
        "kv_layers": model.spec.kv.iter().map(|kv| kv.num_layers).sum::<usize>(),
        "tokenizer": model.tokenizer().is_ok(),
        "chat_template": model.chat_template.is_some(),
        "eos_token_ids": model.eos,
        "sampling": {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
        },
    });
    let Some(shape) = shape else { return Ok(report) };
    report["active_parameters"] = shape.active_parameters.into();
    report["num_hidden_layers"] = shape.num_layers.into();
    report["hidden_size"] = shape.hidden_size.into();
    report["num_attention_heads"] = shape.attention.num_heads.into();
    report["num_key_value_heads"] = shape.attention.num_kv_heads.into();
    report["head_dim"] = shape.attention.head_dim.into();
    report["rope_parameters"] = shape.rope_json();
    report["sliding_window"] = shape.sliding.map(|(_, window)| window).into();
    report["num_experts"] = shape.experts.map(|experts| experts.num_experts).into();
    report["num_experts_per_tok"] = shape.experts.map(|experts| experts.per_token).into();
    Ok(report)
}

/// For people.
fn print(model: &Model, path: Option<&str>, shape: Option<&Shape>, loaded: &Loaded) -> Result<()> {
    let (parameters, size) = (model.spec.num_parameters(), model.weight_bytes()?);
    let name = printable(&model.name);
    let formats: Vec<_> = model.weight_formats()?.iter().map(ToString::to_string).collect();
    let saved = format!("{} parameters, {} in {}", short(parameters), bytes(size), formats.join(", "));
    outln!("{name}: {}, {saved}", model.spec.name)?;
    let line = |name: &str, value: String| outln!("{name:<14} {}", printable(&value));
    line("path", path.unwrap_or("inside this program").into())?;
    if !loaded.expanded.is_empty() {
        let (formats, dtype) = (loaded.expanded.join(", "), model.activations().dtype());
        let why = format!("{formats} expanded to {dtype}, for want of kernels on {}", loaded.backend);
        line("in memory", format!("{}: {why}", bytes(loaded.bytes)))?;
    }
    if let Some(shape) = shape {
        line("layers", shape.num_layers.to_string())?;
        line("hidden size", shape.hidden_size.to_string())?;
        let attention = &shape.attention;
        let heads = format!("{} query heads, {} KV heads", attention.num_heads, attention.num_kv_heads);
        let window = shape.sliding.map_or(String::new(), |(layers, window)| {
            format!("; in {} a token sees {} back", count(layers, "layer"), count(window, "token"))
        });
        line("attention", format!("{heads}, head_dim {}{window}", attention.head_dim))?;
        line("rope", shape.rope_line())?;
        if let Some(experts) = shape.experts {
            let active = format!("{} parameters active", short(shape.active_parameters));
            let of = format!("{} of {} a token", experts.per_token, experts.num_experts);
            line("experts", format!("{of}, in {}; {active}", count(experts.num_layers, "layer")))?;
        }
    }
    line("context", count(model.spec.max_positions, "token"))?;
    line("vocabulary", count(model.spec.vocab_size, "token"))?;
    line("sampling", sampling_line(&model.sampling()))?;
    let eos: Vec<_> = model.eos.iter().map(ToString::to_string).collect();
    line("end of text", if eos.is_empty() { "no token".into() } else { eos.join(", ") })?;
    let has = |is: bool| if is { "yes" } else { "no" };
    line("tokenizer", has(model.tokenizer().is_ok()).into())?;
    line("chat template", has(model.chat_template.is_some()).into())?;
    outln!("\n{:<14} {:>12} {:>12}", "weights", "parameters", "size")?;
    for (kind, (parameters, size)) in by_kind(model)? {
        outln!("{kind:<14} {:>12} {:>12}", short(parameters), bytes(size))?;
    }
    Ok(())
}

/// The weights as a backend loads them if no flag says otherwise.
struct Loaded {
    backend: String,
    bytes: usize,
    /// Formats of the checkpoint that it has no kernels for.
    expanded: Vec<String>,
}

impl Loaded {
    fn of(model: &Model, device: &DeviceArgs) -> Result<Self> {
        let backend = backends::factory(device)()?;
        let plan = LoadPlan::new(&LoadOptions::default(), model, backend.as_ref())?.plan;
        let bytes = plan.weights.iter().map(nvllm_core::WeightInfo::bytes).sum();
        let mut expanded = Vec::new();
        for (decl, info) in model.spec.weights.iter().zip(&plan.weights) {
            for (part, loaded) in decl.parts.iter().zip(&info.parts) {
                let format = model.source.info(&part.source)?.format;
                if format != loaded.format && !expanded.contains(&format.to_string()) {
                    expanded.push(format.to_string());
                }
            }
        }
        Ok(Self { backend: backend.info().name, bytes, expanded })
    }
}

/// How the model is sampled if no flag says otherwise.
fn sampling_line(params: &SamplingParams) -> String {
    if params.temperature == 0.0 {
        return "greedy".into();
    }
    let mut line = format!("temperature {}", params.temperature);
    let mut more = |is: bool, text: String| line += if is { &text } else { "" };
    more(params.top_k > 0, format!(", top_k {}", params.top_k));
    more(params.top_p < 1.0, format!(", top_p {}", params.top_p));
    more(params.min_p > 0.0, format!(", min_p {}", params.min_p));
    more(params.repetition_penalty != 1.0, format!(", repetition_penalty {}", params.repetition_penalty));
    line
}

/// Parameters and bytes by what the weight is for.
fn by_kind(model: &Model) -> Result<BTreeMap<&'static str, (usize, usize)>> {
    let mut kinds = BTreeMap::new();
    for weight in &model.spec.weights {
        let layer = weight.name.strip_suffix(".bias").unwrap_or(&weight.name);
        let last = layer.rsplit('.').next().unwrap_or_default();
        let kind = match (weight.name.as_str(), last) {
            ("embed_tokens", _) => "embedding",
            ("lm_head", _) => "head",
            (name, _) if name.contains("experts") => "experts",
            (_, "router") => "router",
            (_, "qkv" | "o") => "attention",
            (_, "gate_up" | "down") => "feed-forward",
            _ => "norms",
        };
        let mut bytes = 0;
        for part in &weight.parts {
            bytes += model.source.info(&part.source)?.bytes();
        }
        let entry: &mut (usize, usize) = kinds.entry(kind).or_default();
        *entry = (entry.0 + weight.num_elements(), entry.1 + bytes);
    }
    Ok(kinds)
}
