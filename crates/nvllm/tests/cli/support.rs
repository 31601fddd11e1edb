//! Running the binary.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A path in the repository.
pub(crate) fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A golden checkpoint's directory.
pub(crate) fn fixture(name: &str) -> PathBuf {
    repo("tests/golden").join(name)
}

/// The binary with a hub that is not there, so that no test reaches for one, and without input.
pub(crate) fn command(args: &[&str]) -> Command {
    let home = std::env::temp_dir().join("nvllm-cli-test-home");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvllm"));
    command
        .args(args)
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null());
    command
}

pub(crate) fn nvllm(args: &[&str]) -> Output {
    command(args).output().expect("the binary starts")
}

/// As [`nvllm`], with something on standard input.
pub(crate) fn nvllm_reading(args: &[&str], input: &[u8]) -> Output {
    let mut command = command(args);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the binary starts");
    // A program that ends without reading its input is no failure here.
    let _ = child.stdin.take().expect("piped").write_all(input);
    child.wait_with_output().expect("the binary ends")
}

/// What a run that succeeds prints.
pub(crate) fn stdout(args: &[&str]) -> String {
    let output = nvllm(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs with `args` and expects one error line that holds every word.
pub(crate) fn refuses(args: &[&str], words: &[&str]) {
    check_refusal(&nvllm(args), args, words);
}

pub(crate) fn check_refusal(output: &Output, args: &[&str], words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    let line = stderr.lines().last().unwrap_or_default();
    assert!(line.starts_with("error: "), "{args:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    for word in words {
        assert!(line.contains(word), "{args:?}: no `{word}` in: {line}");
    }
}

/// Expects a bad command line: exit code 2, and every word in what is said.
pub(crate) fn is_usage_error(args: &[&str], words: &[&str]) {
    let output = nvllm(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: no `{word}` in: {stderr}");
    }
}

/// Sends Ctrl-C's signal.
#[cfg(unix)]
pub(crate) fn interrupt(child: &Child) {
    let kill = format!("kill -INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh").success());
}

/// Waits for the end of a process that is to end soon, and kills one that does not.
pub(crate) fn ends(mut child: Child) -> Output {
    let deadline = Instant::now() + Duration::from_mins(1);
    while child.try_wait().expect("its status").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the process did not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("its output")
}

/// A copy of a golden checkpoint, changed by `change`.
pub(crate) fn changed(change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(fixture("a_qwen3_tied_gqa").join(file), dir.path().join(file)).unwrap();
    }
    change(dir.path());
    dir
}

/// The same with another value of a field of config.json.
pub(crate) fn with_config(field: &str, value: &Value) -> tempfile::TempDir {
    changed(|dir| {
        let path = dir.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[field] = value.clone();
        std::fs::write(path, config.to_string()).unwrap();
    })
}
