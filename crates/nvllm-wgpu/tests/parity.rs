//! The backend against the reference. Skips, and says why, where there is no adapter.

use std::sync::OnceLock;

use nvllm_conformance::{CASES, expect_trials};
use nvllm_wgpu::{WgpuBackend, WgpuOptions};

/// One device for all cases: a software adapter compiles each shader for as long as a case takes.
fn backend() -> Result<WgpuBackend, String> {
    static BACKEND: OnceLock<Result<WgpuBackend, String>> = OnceLock::new();
    let open = || WgpuBackend::new(&WgpuOptions::default()).map_err(|error| error.to_string());
    BACKEND.get_or_init(open).clone()
}

/// Trials of a property: few on the host's processor, where all of a GPU's threads take turns.
fn num_trials(backend: &WgpuBackend) -> u32 {
    if backend.facts().is_cpu { 4 } else { 24 }
}

nvllm_conformance::conformance_where_found!(parity, backend, num_trials);

/// Parts of the suite that read weights by rows, or the cache by blocks.
const IN_PIECES: [&str; 10] = [
    "embed",
    "linear",
    "linear_silu_mul",
    "expert_linear",
    "embed_formats",
    "linear_formats",
    "expert_linear_formats",
    "attention",
    "paged_attention",
    "shared_blocks",
];

/// What is larger than a shader sees of a buffer lies in pieces, and means the same.
#[test]
fn weights_and_caches_in_pieces_conform() {
    let options = WgpuOptions { piece_bytes: Some(4096), ..WgpuOptions::default() };
    let backend = match WgpuBackend::new(&options) {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let cases: Vec<_> = CASES.iter().filter(|case| IN_PIECES.contains(&case.name)).collect();
    assert_eq!(cases.len(), IN_PIECES.len());
    cases.into_iter().for_each(|case| expect_trials(case.run, &backend, num_trials(&backend)));
}
