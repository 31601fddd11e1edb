//! Memory that runs out while a model is loaded, which a plan does not see: the process may have
//! less than the machine. Where the adapter is the host's processor; else, and where there is none,
//! skips and says so. Alone in its program, because it limits the process.
#![cfg(target_os = "linux")]

mod head;

use head::{load, step};
use nvllm_wgpu::{WgpuBackend, WgpuOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Bytes of a cache, and those that the process may still take.
const CACHE: usize = 2 << 30;
const LEFT: u64 = 512 << 20;

#[test]
fn memory_that_runs_out_is_an_error_that_says_what_for() {
    let backend = match WgpuBackend::new(&WgpuOptions::default()) {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let facts = backend.facts();
    if !facts.is_cpu || facts.memory_bytes < 2 * CACHE {
        return println!("skipped: {} has memory of its own, or little", facts.name);
    }
    // Shaders are compiled before there is a limit.
    drop(load(&backend, 0, 0).expect("a small model"));
    let pages = std::fs::read_to_string("/proc/self/statm").expect("this process");
    let pages: u64 = pages.split(' ').next().expect("its size").parse().expect("a number");
    let before = getrlimit(Resource::As);
    let limit = Rlimit { current: Some(pages * 4096 + LEFT), ..before };
    setrlimit(Resource::As, limit).expect("a limit");
    let refused = load(&backend, 8, CACHE).err();
    setrlimit(Resource::As, before).expect("no limit");
    let error = refused.expect("there is no memory").to_string();
    assert!(error.contains("the GPU ran out of memory: ") && error.contains("the KV cache"), "{error}");
    assert!(error.contains("--kv-cache-bytes") && error.lines().count() == 1, "{error}");
    // The device goes on with what fits.
    let mut exe = load(&backend, 0, 0).expect("a small model");
    let ticket = exe.submit(&step(0)).expect("a step");
    assert!(exe.collect(ticket).expect("its output").rows[0].token.is_some());
}
