//! `nvllm plan`: what a model takes in memory under given limits, before a byte of it is loaded.

use anyhow::Result;
use clap::Args;
use nvllm_engine::LoadPlan;
use serde_json::json;

use crate::flags::{BackendName, DeviceProfile, LoadArgs, ModelName, number};
use crate::human::{bytes, count};
use crate::output::outln;
use crate::words::{UsageError, printable};
use crate::{backends, built_in, models};

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm plan
  nvllm plan Qwen/Qwen3-0.6B --max-num-seqs 64 --kv-cache-bytes 4GiB
  nvllm plan Qwen/Qwen3-8B --device-profile h200")]
pub(crate) struct Plan {
    #[command(flatten)]
    pub model: ModelName,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Sequences at once [default: as many as suit the backend].
    #[arg(long, value_parser = number::positive)]
    pub max_num_seqs: Option<usize>,
    /// Plan for a GPU of this kind with nothing else on it; none has to be here.
    #[arg(long, value_enum, conflicts_with = "gpu")]
    pub device_profile: Option<DeviceProfile>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: &Plan) -> Result<()> {
    let gpu = matches!(args.load.device.backend, BackendName::Auto | BackendName::Cuda);
    if args.device_profile.is_some() && !gpu {
        return Err(
            UsageError("--device-profile is a GPU's: leave --backend out, or give --backend cuda").into()
        );
    }
    let model = models::prepare(models::open(args.model.get())?, &args.load)?;
    let device = match args.device_profile {
        Some(profile) => built_in::cuda_profile(profile)?,
        None => backends::factory(&args.load.device)()?,
    };
    let options = backends::load_options(&args.load, args.max_num_seqs);
    let plan = LoadPlan::new(&options, &model, device.as_ref())?;
    let (info, limits, need) = (&plan.backend, &plan.plan.limits, plan.plan.memory);
    models::note_context(&model, args.load.max_model_len, limits.context);
    let token_bytes = plan.block_bytes / limits.block_len;
    let most_tokens = plan.most_kv_tokens();
    let full_sequences = most_tokens / limits.context;
    if args.json {
        let report = json!({
            "model": model.name,
            "backend": info.name,
            "memory_bytes": info.memory_bytes,
            "limits": limits,
            "weights_bytes": need.weights,
            "kv_cache_bytes": need.kv,
            "kv_cache_tokens": plan.kv_tokens(),
            "kv_bytes_per_token": token_bytes,
            "arena_bytes": need.arena,
            "scratch_bytes": need.scratch,
            "total_bytes": need.total(),
            "fits": plan.fits(),
            "most_kv_tokens": most_tokens,
            "most_full_sequences": full_sequences,
        });
        outln!("{report:#}")?;
        return Ok(plan.check()?);
    }
    let name = printable(&model.name);
    outln!("{name} on {} ({}), {} of memory", info.name, info.device, bytes(info.memory_bytes))?;
    let kv =
        format!("{} of {} in {}", count(plan.kv_tokens(), "token"), bytes(token_bytes), limits.kv_format);
    outln!("weights              {:>12}", bytes(need.weights))?;
    outln!("KV cache             {:>12}   {kv}", bytes(need.kv))?;
    let step = format!("{} in a step", count(limits.step_tokens, "token"));
    outln!("values between ops   {:>12}   {step}", bytes(need.arena))?;
    if need.scratch > 0 {
        outln!("scratch              {:>12}", bytes(need.scratch))?;
    }
    let fits = if plan.fits() { "fits" } else { "does not fit" };
    outln!("total                {:>12}   {fits}", bytes(need.total()))?;
    let (tokens, sequences) = (count(most_tokens, "token"), count(full_sequences, "sequence"));
    outln!("at most {tokens} of KV cache fit: {sequences} of {}", count(limits.context, "token"))?;
    Ok(plan.check()?)
}
