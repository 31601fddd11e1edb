//! How runs end before their time: Ctrl-C, closed pipes, full disks.
#![cfg(unix)]

use std::fs::OpenOptions;
use std::io::Read as _;
use std::net::TcpListener;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::support::{command, ends, fixture, interrupt, nvllm_reading};

fn start(args: &[&str]) -> Child {
    command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Starts a long run, and interrupts it once it has printed something and then again runs.
fn interrupted_after_output(args: &[&str]) -> Output {
    let mut child = start(args);
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    interrupt(&child);
    let mut output = ends(child);
    output.stdout.insert(0, first[0]);
    output
}

fn closing_line(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    stderr.lines().last().unwrap_or_default().to_owned()
}

/// A prompt that the scalar reference reads for minutes.
fn long_prompt() -> String {
    "the ".repeat(1900)
}

#[test]
fn ctrl_c_ends_generate_with_what_there_is() {
    let args = ["generate", "Once", "--ignore-eos", "-n", "2000", "--seed", "7", "--backend", "reference"];
    let output = interrupted_after_output(&args);
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stdout.starts_with(b"Once"));
    let line = closing_line(&output);
    assert!(line.contains("(interrupted)") && line.contains("seed 7"), "{line}");

    let mut args = args.to_vec();
    args.push("--jsonl");
    let output = interrupted_after_output(&args);
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (end, tokens) = lines.split_last().unwrap();
    assert_eq!(end["finish_reason"], "abort");
    assert_eq!(end["usage"]["completion_tokens"], tokens.len());
    assert_eq!(end["seed"], 7);
}

#[test]
fn ctrl_c_ends_generate_json_with_one_object() {
    let args = ["generate", "Once", "--ignore-eos", "-n", "2000", "--json", "--backend", "reference"];
    // Nothing tells from outside when loading ends; interrupted before, there is no object.
    let object = [2, 4, 8, 16].into_iter().find_map(|seconds| {
        let child = start(&args);
        std::thread::sleep(Duration::from_secs(seconds));
        interrupt(&child);
        let output = ends(child);
        assert_eq!(output.status.code(), Some(130));
        (!output.stdout.is_empty()).then(|| serde_json::from_slice::<Value>(&output.stdout).unwrap())
    });
    let object = object.expect("an object");
    assert_eq!(object["finish_reason"], "abort");
    assert_eq!(object["usage"]["completion_tokens"], object["token_ids"].as_array().unwrap().len());
}

#[test]
fn ctrl_c_ends_the_reading_of_a_long_prompt() {
    let prompt = long_prompt();
    // The prompt is printed before it is read.
    let output = interrupted_after_output(&["generate", &prompt, "-n", "5", "--backend", "reference"]);
    assert_eq!(output.status.code(), Some(130));
    assert!(closing_line(&output).contains(" 0 out, (interrupted)"), "{}", closing_line(&output));

    // Loading or reading: either ends.
    let child = start(&["chat", &prompt, "-n", "5", "--backend", "reference"]);
    std::thread::sleep(Duration::from_secs(3));
    interrupt(&child);
    assert_eq!(ends(child).status.code(), Some(130));
}

#[test]
fn ctrl_c_ends_a_download() {
    // A hub that takes the connection and never answers.
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    let mut command = command(&["generate", "x", "-m", "org/name"]);
    command.env("HF_ENDPOINT", endpoint).env("HF_HUB_OFFLINE", "0");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _connection = hub.accept().unwrap();
    interrupt(&child);
    assert_eq!(ends(child).status.code(), Some(130));
}

#[test]
fn a_second_ctrl_c_ends_what_the_first_cannot() {
    // Nobody reads: once the pipe is full the program waits in a write.
    let child = start(&["generate", "x", "--ignore-eos", "-n", "2000", "--jsonl", "--logprobs", "20"]);
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..2 {
        interrupt(&child);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(ends(child).status.code(), Some(130));
}

/// Commands that print, each with arguments for a short run.
fn printing() -> Vec<Vec<String>> {
    let out = std::env::temp_dir().join("nvllm-ends-test-logits");
    let a = fixture("a_qwen3_tied_gqa");
    let (out, a) = (out.to_str().unwrap(), a.to_str().unwrap());
    [
        &["generate", "hi", "-n", "8"][..],
        &["generate", "hi", "-n", "8", "--json"],
        &["generate", "hi", "-n", "8", "--jsonl"],
        &["chat", "hi", "-n", "8"],
        &["info"],
        &["info", "--json"],
        &["info", "--program"],
        &["plan"],
        &["plan", "--json"],
        &["doctor"],
        &["bench", "--list"],
        &["logits", "-m", a, "--ids", "1", "--out", out],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
    ]
    .iter()
    .map(|args| args.iter().map(ToString::to_string).collect())
    .collect()
}

#[test]
fn a_closed_pipe_is_no_failure() {
    for args in printing() {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let mut child = start(&args);
        drop(child.stdout.take());
        let output = ends(child);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !stderr.contains("panicked"), "{args:?}: {stderr}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_line() {
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in printing().iter().filter(|args| args[0] != "logits") {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let output = command(&args).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(closing_line(&output).contains("No space left on device"), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    }
    for args in printing() {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let output = command(&args).stdout(Stdio::piped()).stderr(full()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {:?}", output.status);
    }
}

#[test]
fn an_interrupted_input_is_read_to_its_end() {
    let output = nvllm_reading(&["generate", "-", "-n", "2"], b"ab\xff");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("standard input is not UTF-8 (byte 2)"), "{stderr}");
}
