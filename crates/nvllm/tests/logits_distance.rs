//! The check of our logits' distance to fp32 against transformers' own, on the demo model: it
//! passes, and it notices. It needs a `python3` with torch, transformers and safetensors.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Runs the check with `nvllm` and more arguments.
fn check(nvllm: &Path, records: &Path, more: &[&str]) -> Output {
    Command::new("python3")
        .arg(repo("tests/python/logits_distance.py"))
        .args(more)
        .args(["--device", "cpu", "--backend", "cpu", "--model"])
        .arg(repo("models/nvllm-tiny"))
        .arg("--nvllm")
        .arg(nvllm)
        .arg("--records")
        .arg(records)
        .output()
        .expect("python3 starts")
}

/// A program that runs the real one with something more.
fn with(dir: &Path, more: &str) -> PathBuf {
    let path = dir.join("nvllm");
    let text = format!("#!/bin/sh\nexec {} \"$@\" {more}\n", env!("CARGO_BIN_EXE_nvllm"));
    std::fs::write(&path, text).unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&path).status().unwrap().success());
    path
}

#[test]
fn logits_are_no_farther_from_fp32_than_transformers_are() {
    let python = Command::new("python3").args(["-c", "import torch, transformers, safetensors"]).output();
    if !python.is_ok_and(|output| output.status.success()) {
        return println!("skipped: python3 with torch, transformers and safetensors is not here");
    }
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().join("records.jsonl");
    // All prompts: the largest error of a few hundred rows is chance.
    let right = check(Path::new(env!("CARGO_BIN_EXE_nvllm")), &records, &[]);
    let said = String::from_utf8_lossy(&right.stdout);
    assert!(right.status.success(), "{said}{}", String::from_utf8_lossy(&right.stderr));
    assert!(said.contains("| 2048 tokens |") && said.contains("| all |"), "{said}");
    assert_eq!(std::fs::read_to_string(&records).unwrap().lines().count(), 8);
    // bf16 where f32 was asked for, which only the rule for f32 can notice.
    let wrong = check(&with(dir.path(), "--kv-cache-dtype bf16"), &records, &["--lengths", "7", "512"]);
    let said = String::from_utf8_lossy(&wrong.stdout);
    assert_eq!(wrong.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&wrong.stderr));
    assert!(said.contains("nvllm f32: largest error "), "{said}");
}
