//! `nvllm bench`: what it refuses before it measures, and what it prints.

use crate::support::{command, is_usage_error, refuses, stdout};

#[test]
fn nonsense_is_a_bad_command_line() {
    for (args, words) in [
        (["--case-seconds", "nan"], ["--case-seconds", "above 0"]),
        (["--case-seconds", "inf"], ["--case-seconds", "above 0"]),
        (["--case-seconds", "0"], ["--case-seconds", "above 0"]),
        (["--scale", "0"], ["--scale", "up to 1"]),
        (["--scale", "nan"], ["--scale", "up to 1"]),
        (["--scale", "1e9"], ["--scale", "up to 1"]),
        (["--batch", "1,0"], ["--batch", "from 1"]),
        (["--context", "99999999999999"], ["--context", "from 1"]),
        (["--prompt-len", "many"], ["--prompt-len", "from 1"]),
        (["speed", "decode"], ["speed", "decode"]),
    ] {
        is_usage_error(&["bench", args[0], args[1]], &words);
    }
}

#[test]
fn sizes_of_requests_without_a_workload_that_sends_them_are_refused() {
    is_usage_error(&["bench", "decode", "--concurrency", "4"], &["--concurrency", "serve"]);
    is_usage_error(&["bench", "--lengths", "16,16"], &["--lengths", "serve"]);
    let arrivals = ["bench", "arrivals", "--url", "http://127.0.0.1:9", "--lengths", "16,16"];
    is_usage_error(&arrivals, &["--lengths", "serve"]);
}

#[test]
fn files_that_cannot_be_written_are_refused_before_anything_is_measured() {
    let start = std::time::Instant::now();
    refuses(&["bench", "--records", "/nonexistent/r.jsonl"], &["--records /nonexistent/r.jsonl"]);
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().join("r.jsonl");
    let records_text = records.to_str().unwrap();
    let args = ["bench", "--records", records_text, "--profile", "/nonexistent/p.json"];
    refuses(&args, &["--profile /nonexistent/p.json"]);
    assert!(!records.exists(), "nothing was measured, so nothing is written");
    assert!(start.elapsed().as_secs() < 60);
}

#[test]
fn sizes_are_measured_as_asked_for_and_a_skipped_one_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().join("r.jsonl");
    let output =
        command(&["bench", "decode", "--quick", "--batch", "2", "--context", "16,1000000", "--records"])
            .arg(&records)
            .output()
            .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert!(out.contains("| decode, batch 2, context 16 | nvllm |") && !out.contains("skipped"), "{out}");
    assert!(
        out.contains(concat!("version ", env!("CARGO_PKG_VERSION"))) && !out.contains("commit version"),
        "{out}"
    );
    assert_eq!(err.matches("context 1000000 is skipped").count(), 1, "{err}");
    assert!(err.contains("checking first that the backend computes"), "{err}");
}

#[test]
fn list_defines_every_workload() {
    let list = stdout(&["bench", "--list"]);
    assert!(["startup", "decode", "busy"].iter().all(|name| list.contains(name)), "{list}");
}
