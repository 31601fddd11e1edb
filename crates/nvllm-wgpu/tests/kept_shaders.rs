//! Compiled shaders on disk. Skips, and says why, where there is no adapter, or none whose API
//! hands them out.

mod head;

use std::path::{Path, PathBuf};

use head::{load, step};
use nvllm_wgpu::{WgpuBackend, WgpuOptions};

/// The token that the model samples with shaders kept in `dir`.
fn sampled(backend: &WgpuBackend) -> u32 {
    let mut exe = load(backend, 0, 0).expect("a small model");
    let ticket = exe.submit(&step(0)).expect("a step");
    exe.collect(ticket).expect("its output").rows[0].token.expect("a token").0
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("a file").path());
    let mut files: Vec<_> =
        entries.map(|path| (path.clone(), std::fs::read(&path).expect("a file"))).collect();
    files.sort();
    files
}

#[test]
fn shaders_are_kept_and_damaged_ones_compiled_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let cache_dir = dir.path().join("shaders");
    let open = || WgpuBackend::new(&WgpuOptions { cache_dir: Some(cache_dir.clone()), ..Default::default() });
    let backend = match open() {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    if !backend.facts().features.contains(&"pipeline cache") {
        return println!("skipped: {} hands out no compiled shaders", backend.facts().api);
    }
    let token = sampled(&backend);
    let kept = files(&cache_dir);
    assert!(kept.len() > 3 && kept.iter().all(|(_, bytes)| bytes.len() > 64), "{}", kept.len());
    // Nothing new is made by who finds all.
    assert_eq!(sampled(&open().expect("the same adapter")), token);
    assert!(files(&cache_dir) == kept, "what was found was written again");
    for (at, (path, bytes)) in kept.iter().enumerate() {
        let other = &kept[(at + 1) % kept.len()].1;
        let damaged = [&bytes[..bytes.len() / 2], &[], other][at % 3];
        std::fs::write(path, damaged).expect("a file");
    }
    assert_eq!(sampled(&open().expect("the same adapter")), token);
    let again = files(&cache_dir);
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(names(&again), names(&kept));
    assert!(again.iter().zip(&kept).all(|(new, old)| new.1.len() == old.1.len()));
    // A folder that cannot be made costs the keeping, and nothing else.
    let blocked = dir.path().join("a file");
    std::fs::write(&blocked, "").expect("a file");
    let options = WgpuOptions { cache_dir: Some(blocked.join("shaders")), ..WgpuOptions::default() };
    assert_eq!(sampled(&WgpuBackend::new(&options).expect("the same adapter")), token);
}
