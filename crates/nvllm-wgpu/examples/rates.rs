//! What the adapter that the first argument names reaches: `cargo run --release -p nvllm-wgpu
//! --example rates -- 0`.
#![allow(clippy::print_stdout, reason = "it prints what it measures")]

use nvllm_core::Backend;
use nvllm_wgpu::{WgpuBackend, WgpuOptions, adapters};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for facts in adapters() {
        println!("{facts:?}");
    }
    let backend =
        WgpuBackend::new(&WgpuOptions { adapter: std::env::args().nth(1), ..WgpuOptions::default() })?;
    println!("{}", backend.info().device);
    if let Some(rate) = backend.measure_read_bandwidth()? {
        println!("reads {:.1} GB/s", rate / 1e9);
    }
    println!("a dependent launch takes {:.2} us", backend.measure_launch_seconds()? * 1e6);
    Ok(())
}
