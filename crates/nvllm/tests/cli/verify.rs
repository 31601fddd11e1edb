//! `nvllm verify`: a table, JSON, and what is refused.

use serde_json::Value;

use crate::support::{fixture, is_usage_error, nvllm, refuses, stdout};

/// A model that is quick everywhere.
fn model() -> String {
    fixture("a_qwen3_tied_gqa").to_str().unwrap().to_owned()
}

#[test]
fn verify_prints_a_table_and_says_on_standard_error_how_far_it_is() {
    let output = nvllm(&["verify", "--quick", "--backend", "cpu", "-m", &model()]);
    let (table, progress) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{table}{progress}");
    assert!(table.lines().next().unwrap().contains(" on cpu ("), "{table}");
    for row in ["all at once", "steps of 5", "prefix cache", "several choices", "preemption", "all of these"]
    {
        let line = table.lines().find(|line| line.starts_with(&format!("{row}  "))).expect(row);
        assert!(line.contains("  equal"), "{line}");
    }
    assert!(progress.starts_with("1 of 11: each request alone\n2 of 11: all at once\n"), "{progress}");
    assert!(progress.contains("\nverified in "), "{progress}");
}

#[test]
fn verify_as_json_has_each_row() {
    let args = [
        "verify",
        "--quick",
        "--backend",
        "cpu",
        "--json",
        "--seed",
        "3",
        "--num-requests",
        "5",
        "-m",
        &model(),
    ];
    let report: Value = serde_json::from_str(&stdout(&args)).unwrap();
    assert_eq!((&report["requests"], &report["seed"]), (&5.into(), &3.into()));
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 10);
    for row in rows {
        assert_eq!(row["outcome"]["result"], "equal", "{row}");
        assert!(row["tokens"].as_u64().unwrap() > 0 && row["seconds"].as_f64().unwrap() > 0.0, "{row}");
    }
}

#[test]
fn what_did_not_happen_fails() {
    let args = ["verify", "--quick", "--backend", "cpu", "--num-requests", "1", "-m", &model()];
    refuses(&args, &["differ from requests that run alone, or did not happen: see the table"]);
    let table = String::from_utf8(nvllm(&args).stdout).unwrap();
    assert!(table.contains("NOT SHOWN\n    nothing was preempted\n"), "{table}");
}

#[test]
fn what_cannot_be_verified_is_refused() {
    refuses(&["verify", "--numerics", "fast"], &["--numerics is fast, which does not promise equal results"]);
    refuses(&["verify", "--max-model-len", "8"], &["--max-model-len is 8; verify needs 64 or more"]);
    is_usage_error(&["verify", "--num-requests", "0"], &["--num-requests", "'0'"]);
}
