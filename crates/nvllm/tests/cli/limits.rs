//! Limits: what cannot be is refused by `plan` and `generate` in the same words, and what does not
//! fit is said before it aborts.

use serde_json::Value;

use super::support::{fixture, is_usage_error, nvllm, stdout};

/// The error line and exit code of a run.
fn error_of(args: &[&str]) -> (Option<i32>, String) {
    let output = nvllm(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked") && !stderr.contains("memory allocation"), "{args:?}: {stderr}");
    (output.status.code(), stderr.lines().last().unwrap_or_default().to_owned())
}

#[test]
fn plan_and_generate_refuse_in_the_same_words() {
    let cases: [(&[&str], &str); 14] = [
        (
            &["--max-num-batched-tokens", "9223372036854775808"],
            "error: --max-num-batched-tokens is 9223372036854775808",
        ),
        (
            &["--max-num-batched-tokens", "1000000000000"],
            "error: --max-num-batched-tokens is 1000000000000; up to",
        ),
        (&["--block-size", "9223372036854775808"], "error: --block-size is 9223372036854775808"),
        (&["--block-size", "4503599627370496"], "error: --block-size is 4503599627370496"),
        (&["--block-size", "2147483647"], "error: --block-size is 2147483647"),
        (&["--block-size", "1073741823"], "give a --block-size of 2048 or less"),
        (&["--max-model-len", "999999"], "error: --max-model-len is 999999; nvllm-tiny has 2048 positions"),
        (
            &["--kv-cache-bytes", "1"],
            "error: --kv-cache-bytes is 1; one sequence of 2048 tokens takes 8454144: give that or more",
        ),
        (&["--kv-cache-bytes", "1000000"], "or a --max-model-len of 224 or less"),
        (&["--kv-cache-bytes", "1000000000000000"], "error: --kv-cache-bytes is 1000000000000000"),
        (&["--kv-cache-bytes", "18446744073709551615"], "error: --kv-cache-bytes is 18446744073709551615"),
        (&["--kv-cache-bytes", "8000000000000"], "give a --kv-cache-bytes of "),
        (&["--kv-cache-bytes", "8000000000000", "--backend", "reference"], "give a --kv-cache-bytes of "),
        (
            &["--exact-head", "--backend", "reference"],
            "error: --exact-head is given, and the backend `reference`",
        ),
    ];
    for (flags, words) in cases {
        let plan = error_of(&[&["plan", "--max-num-seqs", "1"], flags].concat());
        let generate = error_of(&[&["generate", "hi", "-n", "2"], flags].concat());
        assert_eq!(plan, generate, "{flags:?}");
        assert_eq!(plan.0, Some(1), "{flags:?}: {}", plan.1);
        assert!(plan.1.contains(words), "{flags:?}: {}", plan.1);
        for inside in ["step_tokens", "block_len", "kv_bytes", "step_outputs", "exact_head"] {
            assert!(!plan.1.contains(inside), "{flags:?}: {}", plan.1);
        }
    }
}

#[test]
fn none_of_what_there_must_be_is_a_bad_command_line_before_a_model_is_looked_for() {
    for flag in ["--max-num-batched-tokens", "--block-size", "--max-model-len", "--threads", "--max-num-seqs"]
    {
        let plan = ["plan", "no/such", flag, "0"];
        is_usage_error(&plan, &[flag, "'0'"]);
        let extra = if flag == "--max-num-seqs" { &["--prompts", "no-such-file"][..] } else { &["hi"] };
        is_usage_error(&[&["generate", "-m", "no/such", flag, "0"], extra].concat(), &[flag, "'0'"]);
    }
    is_usage_error(&["generate", "hi", "--threads", "99999"], &["--threads", "1 to 1024"]);
}

#[test]
fn sequences_beyond_number_are_refused_and_those_beyond_memory_do_not_fit() {
    let plan = |n: &str| error_of(&["plan", "--max-num-seqs", n]);
    for n in ["18446744073709551615", "4294967296"] {
        let (code, line) = plan(n);
        assert_eq!(code, Some(1));
        assert!(line.starts_with(&format!("error: --max-num-seqs is {n}; ")), "{line}");
    }
    let (code, line) = plan("2147483647");
    assert_eq!(code, Some(1));
    assert!(line.contains("the model does not fit") && line.contains("give a --max-num-seqs of "), "{line}");
}

#[test]
fn a_plan_that_does_not_fit_still_says_what_does() {
    let args = ["plan", "--json", "--kv-cache-bytes", "8000000000000"];
    let output = nvllm(&args);
    assert_eq!(output.status.code(), Some(1));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["fits"], false);
    // What it says would fit does.
    let most = plan["most_kv_tokens"].as_u64().unwrap();
    let bytes = (most / 16 + 1) * 16 * plan["kv_bytes_per_token"].as_u64().unwrap();
    let fits: Value =
        serde_json::from_str(&stdout(&["plan", "--json", "--kv-cache-bytes", &bytes.to_string()])).unwrap();
    assert_eq!((&fits["fits"], &fits["kv_cache_tokens"]), (&true.into(), &most.into()));
    let output = nvllm(&["plan", "--kv-cache-bytes", "8000000000000"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("does not fit") && text.contains("at most "), "{text}");
}

#[test]
fn large_steps_cost_a_short_prompt_nothing() {
    let args = ["generate", "hi", "-n", "2", "--json", "--max-num-batched-tokens", "1000000"];
    let report: Value = serde_json::from_str(&stdout(&args)).unwrap();
    assert_eq!(report["usage"]["completion_tokens"], 2);
    let plan: Value = serde_json::from_str(&stdout(&[
        "plan",
        "--json",
        "--max-num-seqs",
        "1",
        "--max-num-batched-tokens",
        "1000000",
    ]))
    .unwrap();
    // No step holds more than a sequence's context.
    assert_eq!(plan["limits"]["step_tokens"], 2048);
}

#[test]
fn plan_is_for_people_and_exact_for_programs() {
    let text = stdout(&["plan", "--backend", "cpu", "--max-num-seqs", "2"]);
    for part in ["15.3 MiB", "tokens of 4.0 KiB in bf16", "fits", "sequences of 2,048 tokens"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let plan: Value = serde_json::from_str(&stdout(&[
        "plan",
        "--json",
        "-m",
        fixture("a_qwen3_tied_gqa").to_str().unwrap(),
    ]))
    .unwrap();
    let sum: u64 = ["weights_bytes", "kv_cache_bytes", "arena_bytes", "scratch_bytes"]
        .iter()
        .map(|part| plan[*part].as_u64().unwrap())
        .sum();
    assert_eq!(plan["total_bytes"], sum);
    // The reference runs on this machine too, and on no machine of 16 EiB.
    let reference: Value =
        serde_json::from_str(&stdout(&["plan", "--json", "--backend", "reference"])).unwrap();
    assert!(reference["memory_bytes"].as_u64().unwrap() < 1 << 50);
}
