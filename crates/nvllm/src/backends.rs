//! From `--backend` to a backend.

use std::sync::Once;

use nvllm_core::{Activations, Backend, Reference};
use nvllm_cpu::{CpuBackend, PoolConfig};
use nvllm_engine::{EngineError, LoadOptions};

use crate::auto::{self, Choice};
use crate::flags::{BackendName, DeviceArgs, Dtype, LoadArgs};
use crate::output::note;
use crate::{built_in, human};

/// What makes the backend, on the thread that will own it.
///
/// `auto` is CUDA if a GPU answers, else what [`auto::choice`] takes; a GPU that was asked for by
/// number must answer, and so must an adapter of wgpu.
pub(crate) fn factory(
    args: &DeviceArgs,
) -> impl Fn() -> nvllm_engine::Result<Box<dyn Backend>> + Send + Sync + 'static {
    let args = args.clone();
    move || match args.backend {
        BackendName::Reference => Ok(Box::new(Reference::default())),
        BackendName::Cpu => cpu(&args),
        BackendName::Cuda => cuda(&args),
        BackendName::Wgpu => wgpu(&args),
        BackendName::Auto if args.gpu.is_some() => cuda(&args),
        BackendName::Auto if args.adapter.is_some() => wgpu(&args),
        BackendName::Auto => match built_in::cuda(&args) {
            Ok(cuda) => Ok(cuda),
            Err(reason) => {
                if built_in::gpu_answers() {
                    note!("note: a GPU is there and CUDA cannot use it: {reason}");
                }
                without_cuda(&args)
            }
        },
    }
}

/// The adapter that is faster than the CPU, or the CPU.
fn without_cuda(args: &DeviceArgs) -> nvllm_engine::Result<Box<dyn Backend>> {
    let Choice { adapter, reason } = auto::choice(args, || cpu(args), false)?;
    tracing::info!("--backend auto takes {}: {reason}", adapter.map_or("the CPU", |_| "wgpu"));
    let Some(adapter) = adapter else { return cpu(args) };
    let asked = DeviceArgs { adapter: Some(adapter.to_string()), ..args.clone() };
    wgpu(&asked).or_else(|reason| {
        note!("note: adapter {adapter} was faster and cannot be used: {reason}; using the CPU");
        cpu(args)
    })
}

pub(crate) fn cpu(args: &DeviceArgs) -> nvllm_engine::Result<Box<dyn Backend>> {
    // The bench makes the backend more than once.
    static SAID: Once = Once::new();
    let processors = nvllm_cpu::default_threads();
    if let Some(threads) = args.threads.filter(|&threads| threads > processors) {
        let have = human::count(processors, "processor");
        SAID.call_once(|| {
            note!("warning: --threads {threads}, but this process may use {have}: more threads are slower");
        });
    }
    let config = PoolConfig { threads: args.threads, pin: args.pin, ..PoolConfig::default() };
    let cpu = CpuBackend::new(&config).map_err(|e| EngineError::Backend { reason: e.to_string() })?;
    Ok(Box::new(cpu))
}

fn cuda(args: &DeviceArgs) -> nvllm_engine::Result<Box<dyn Backend>> {
    built_in::cuda(args).map_err(|e| EngineError::Backend { reason: e.to_string() })
}

fn wgpu(args: &DeviceArgs) -> nvllm_engine::Result<Box<dyn Backend>> {
    built_in::wgpu(args).map_err(|e| EngineError::Backend { reason: e.to_string() })
}

/// The load options that the flags ask for.
pub(crate) fn load_options(args: &LoadArgs, max_num_seqs: Option<usize>) -> LoadOptions {
    LoadOptions {
        max_num_seqs,
        max_num_batched_tokens: args.max_num_batched_tokens,
        max_model_len: args.max_model_len,
        kv_cache_bytes: args.kv_cache_bytes,
        block_size: args.block_size,
        numerics: args.numerics.numerics(),
        exact_head: args.exact_head,
        activations: args.activations.map(|dtype| match dtype {
            Dtype::F32 => Activations::F32,
            Dtype::Bf16 => Activations::Bf16,
        }),
        kv_cache_dtype: args.kv_cache_dtype.format(),
        // The queue is this program's own: its prompts are in memory already.
        max_queued_requests: usize::MAX,
        max_queued_prompt_tokens: usize::MAX,
        ..LoadOptions::default()
    }
}
