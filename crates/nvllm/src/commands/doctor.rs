//! `nvllm doctor`: what this machine has for running models, and what is missing.

use anyhow::Result;
use nvllm_core::Backend as _;
use nvllm_cpu::{CpuBackend, PoolConfig};

use crate::built_in;

pub(super) fn run() -> Result<()> {
    println!("nvllm {}", env!("CARGO_PKG_VERSION"));
    let info = CpuBackend::new(&PoolConfig::default())?.info();
    println!("cpu       {}, {} bytes of memory", info.device, info.memory_bytes);
    for line in built_in::cuda_findings() {
        println!("{line}");
    }
    Ok(())
}
