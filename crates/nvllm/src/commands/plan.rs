//! `nvllm plan`: what a model takes in memory under given limits, before a byte of it is loaded.

use anyhow::Result;
use clap::Args;
use nvllm_core::program::MemoryPlan;
use nvllm_core::{KvGeometry, backend};
use nvllm_engine::kv_block_bytes;
use serde_json::json;

use crate::flags::LoadArgs;
use crate::output::outln;
use crate::{backends, models};

#[derive(Args)]
pub(crate) struct Plan {
    /// A directory or a hub id; the embedded demo model if not given.
    pub model: Option<String>,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Sequences at once.
    #[arg(long, default_value_t = 16)]
    pub max_num_seqs: usize,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: &Plan) -> Result<()> {
    let mut model = models::open(args.model.as_deref())?;
    models::expand(&mut model, &args.load)?;
    let device = backends::factory(&args.load.device)()?;
    let info = device.info();
    let limits = backends::load_options(&args.load, args.max_num_seqs).limits(&model, &info)?;
    let mut arena = 0;
    for program in backend::lower(device.as_ref(), &model.spec)? {
        arena = arena.max(MemoryPlan::new(&program, &limits, &device.plan_rules())?.bytes());
    }
    let weights = model.weight_bytes()?;
    let mut kv_bytes = 0;
    let mut kv_tokens = usize::MAX;
    for kv in &model.spec.kv {
        let geometry = KvGeometry::new(kv, &limits)?;
        kv_bytes += geometry.num_blocks * geometry.block_bytes();
        kv_tokens = kv_tokens.min((geometry.num_blocks - 1) * geometry.block_len);
    }
    let block = kv_block_bytes(&model, &limits)?;
    let token_bytes = block / limits.block_len;
    let total = weights + kv_bytes + arena;
    let left = info.memory_bytes.saturating_sub(weights + arena + block);
    let most_tokens = left / block * limits.block_len;
    let full_sequences = most_tokens / limits.context;
    if args.json {
        let report = json!({
            "model": model.name,
            "backend": info.name,
            "memory_bytes": info.memory_bytes,
            "limits": limits,
            "weights_bytes": weights,
            "kv_cache_bytes": kv_bytes,
            "kv_cache_tokens": kv_tokens,
            "kv_bytes_per_token": token_bytes,
            "arena_bytes": arena,
            "total_bytes": total,
            "most_kv_tokens": most_tokens,
            "most_full_sequences": full_sequences,
        });
        outln!("{report:#}")?;
        return Ok(());
    }
    outln!("{} on {} ({}), {} bytes of memory", model.name, info.name, info.device, info.memory_bytes)?;
    outln!("weights   {weights:>16} bytes")?;
    outln!(
        "KV cache  {kv_bytes:>16} bytes = {kv_tokens} tokens of {token_bytes} bytes in {}",
        limits.kv_dtype
    )?;
    outln!("arena     {arena:>16} bytes for {} tokens in a step", limits.step_tokens)?;
    let fits = if total <= info.memory_bytes { "fits" } else { "does NOT fit" };
    outln!("total     {total:>16} bytes: {fits}")?;
    outln!("at most {most_tokens} KV tokens fit: {full_sequences} sequences of {}", limits.context)?;
    Ok(())
}
