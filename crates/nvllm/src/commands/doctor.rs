//! `nvllm doctor`: what this machine has for running models, and what is missing.

use anyhow::Result;
use nvllm_bench::host;
use nvllm_core::{Activations, Backend as _, DType};
use nvllm_cpu::{CpuBackend, Isa, PoolConfig};

use crate::output::outln;
use crate::{built_in, environment, human};

pub(super) fn run() -> Result<()> {
    outln!("nvllm {}", env!("CARGO_PKG_VERSION"))?;
    let cpu = CpuBackend::new(&PoolConfig::default())?;
    let info = cpu.info();
    outln!("cpu       {}", info.device)?;
    for isa in Isa::ALL {
        match isa.missing() {
            None => outln!("          {isa}: found")?,
            Some(missing) => outln!("          {isa}: not here, for want of {missing}")?,
        }
    }
    let available = host::available_bytes()
        .map_or_else(String::new, |bytes| format!(", {} available", human::bytes(bytes)));
    outln!("memory    {}{available}", human::bytes(info.memory_bytes))?;
    outln!("          {}", rate("read", "B/s", cpu.measure_read_bandwidth()))?;
    let product = cpu.measure_matmul_rate(DType::Bf16, Activations::Bf16);
    outln!("          {}", rate("bf16 matrix products", "FLOP/s", product))?;
    for line in built_in::cuda_findings() {
        outln!("{line}")?;
    }
    match built_in::open() {
        Ok(_) => outln!("model     {} is in this build", built_in::NAME)?,
        Err(missing) => outln!("model     {missing}")?,
    }
    match environment::cache_dir() {
        Some(dir) => outln!("cache     {}", dir.display())?,
        None => outln!("cache     none: there is no home directory; set XDG_CACHE_HOME")?,
    }
    Ok(())
}

/// A rate that was measured just now.
fn rate(what: &str, unit: &str, rate: Option<f64>) -> String {
    rate.map_or_else(
        || format!("{what}: cannot be measured"),
        |rate| format!("{what}: {}, measured now", human::rate(rate, unit)),
    )
}
