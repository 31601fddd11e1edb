//! From `--backend` to a backend.

use nvllm_core::{Activations, Backend, DType, Reference};
use nvllm_cpu::{CpuBackend, PoolConfig};
use nvllm_engine::{EngineError, LoadOptions};

use crate::cli::{BackendName, Dtype, LoadArgs};

/// What makes the backend, on the thread that will own it.
pub(crate) fn factory(
    args: &LoadArgs,
) -> impl Fn() -> nvllm_engine::Result<Box<dyn Backend>> + Send + Sync + 'static {
    named(args.backend, PoolConfig { threads: args.threads, pin: args.pin, ..PoolConfig::default() })
}

/// As [`factory`], from its parts.
pub(crate) fn named(
    name: BackendName,
    pool: PoolConfig,
) -> impl Fn() -> nvllm_engine::Result<Box<dyn Backend>> + Send + Sync + 'static {
    move || match name {
        BackendName::Reference => Ok(Box::new(Reference::default())),
        BackendName::Auto | BackendName::Cpu => {
            let cpu = CpuBackend::new(&pool).map_err(|e| EngineError::Backend { reason: e.to_string() })?;
            Ok(Box::new(cpu))
        }
    }
}

/// The load options that the flags ask for.
pub(crate) fn load_options(args: &LoadArgs, max_num_seqs: usize) -> LoadOptions {
    LoadOptions {
        max_num_seqs,
        max_num_batched_tokens: args.max_num_batched_tokens,
        max_model_len: args.max_model_len,
        kv_cache_bytes: args.kv_cache_bytes,
        block_size: args.block_size,
        activations: args.activations.map(|dtype| match dtype {
            Dtype::F32 => Activations::F32,
            Dtype::Bf16 => Activations::Bf16,
        }),
        kv_cache_dtype: args.kv_cache_dtype.map(|dtype| match dtype {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::Bf16,
        }),
        ..LoadOptions::default()
    }
}
