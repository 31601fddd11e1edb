//! `nvllm info`: what a model is.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use nvllm_engine::Model;
use serde_json::json;

use crate::models;
use crate::output::outln;

#[derive(Args)]
pub(crate) struct Info {
    /// A directory or a hub id; the embedded demo model if not given.
    pub model: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Print the recorded program as well.
    #[arg(long)]
    pub program: bool,
}

pub(super) fn run(args: &Info) -> Result<()> {
    let model = models::open(args.model.as_deref())?;
    let kinds = by_kind(&model)?;
    let (total, bytes) = (model.spec.num_parameters(), model.weight_bytes()?);
    if args.json {
        let kinds: serde_json::Map<_, _> = kinds
            .iter()
            .map(|(kind, (parameters, bytes))| {
                ((*kind).into(), json!({ "parameters": parameters, "bytes": bytes }))
            })
            .collect();
        let report = json!({
            "model": model.name,
            "architecture": model.spec.name,
            "dtype": model.dtype,
            "parameters": total,
            "bytes": bytes,
            "weights": kinds,
            "vocab_size": model.spec.vocab_size,
            "max_positions": model.spec.max_positions,
            "kv_layers": model.spec.kv.iter().map(|kv| kv.num_layers).sum::<usize>(),
            "tokenizer": model.tokenizer.is_some(),
            "chat_template": model.chat_template.is_some(),
            "eos_token_ids": model.eos,
        });
        outln!("{report:#}")?;
        return Ok(());
    }
    outln!(
        "{}: {}, {total} parameters, {bytes} bytes, saved in {}",
        model.name,
        model.spec.name,
        model.dtype
    )?;
    outln!("{:12} {:>16} {:>16}", "weights", "parameters", "bytes")?;
    for (kind, (parameters, bytes)) in kinds {
        outln!("{kind:12} {parameters:>16} {bytes:>16}")?;
    }
    for kv in &model.spec.kv {
        let window = kv.window.map_or(String::new(), |w| format!(", window {w}"));
        outln!("KV cache: {} layers of {} heads of {}{window}", kv.num_layers, kv.num_heads, kv.head_dim)?;
    }
    outln!("vocabulary {}, positions {}", model.spec.vocab_size, model.spec.max_positions)?;
    let has = |is: bool| if is { "yes" } else { "no" };
    outln!(
        "tokenizer {}, chat template {}",
        has(model.tokenizer.is_some()),
        has(model.chat_template.is_some())
    )?;
    if args.program {
        for program in &model.spec.programs {
            outln!("{}", program.to_string().trim_end())?;
        }
    }
    Ok(())
}

/// Parameters and bytes by what the weight is for.
fn by_kind(model: &Model) -> Result<BTreeMap<&'static str, (usize, usize)>> {
    let mut kinds = BTreeMap::new();
    for weight in &model.spec.weights {
        let last = weight.name.rsplit('.').next().unwrap_or_default();
        let kind = match (weight.name.as_str(), last) {
            ("embed_tokens", _) => "embedding",
            ("lm_head", _) => "head",
            (name, _) if name.contains("experts") => "experts",
            (_, "router") => "router",
            (_, "qkv" | "o" | "bias") => "attention",
            (_, "gate_up" | "down") => "feed-forward",
            _ => "norms",
        };
        let mut bytes = 0;
        for part in &weight.parts {
            bytes += model.source.tensor(&part.source)?.bytes();
        }
        let entry: &mut (usize, usize) = kinds.entry(kind).or_default();
        *entry = (entry.0 + weight.num_elements(), entry.1 + bytes);
    }
    Ok(kinds)
}
