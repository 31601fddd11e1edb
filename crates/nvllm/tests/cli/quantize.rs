//! Weights that are quantised, at load and into a checkpoint.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::support::{command, ends, fixture, interrupt, is_usage_error, refuses, repo, stdout};

fn a_model() -> String {
    fixture("a_qwen3_tied_gqa").display().to_string()
}

#[test]
fn a_checkpoint_is_written_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("made").display().to_string();
    let printed = stdout(&["quantize", &a_model(), "--format", "int4", "--group-size", "32", "-o", &out]);
    assert_eq!(printed.trim_end(), out);
    let config: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("made/config.json")).unwrap()).unwrap();
    let weights = &config["quantization_config"]["config_groups"]["group_0"]["weights"];
    assert_eq!((&weights["group_size"], &weights["num_bits"]), (&32.into(), &4.into()));
    refuses(&["quantize", &a_model(), "--format", "int8", "-o", &out], &["not empty", &out]);
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let with = |flags: &[&str], word: &str| {
        let model = a_model();
        let args = [&["quantize", &model, "-o", "/nowhere/at/all"], flags].concat();
        is_usage_error(&args, &[word]);
    };
    with(&[], "--format");
    with(&["--format", "nf4", "--head", "int8"], "--head");
    with(&["--format", "int8", "--double-quant"], "--double-quant");
    with(&["--format", "int4", "--method", "gptq"], "--calibration");
    with(&["--format", "int8", "--method", "awq", "--calibration", "x"], "int4");
    with(&["--format", "int4", "--calibration", "x"], "--calibration");
    with(&["--format", "int4", "--act-order"], "--act-order");
    with(&["--format", "int4", "--group-size", "48"], "--group-size");
    is_usage_error(&["info", "--quantize-head", "int8"], &["--quantize"]);
    let both = ["plan", "--exact-head", "--quantize", "int8", "--quantize-head", "int8"];
    is_usage_error(&both, &["--exact-head", "--quantize-head"]);
}

#[test]
fn a_place_that_cannot_be_written_is_one_error() {
    refuses(&["quantize", &a_model(), "--format", "int8", "-o", "/proc/none"], &["/proc/none"]);
}

#[test]
fn info_and_plan_show_what_quantised_weights_take() {
    let report = |flags: &[&str]| -> Value {
        let args = [&["info", "--json", "--backend", "reference"], flags].concat();
        serde_json::from_str(&stdout(&args)).unwrap()
    };
    let bytes = |flags: &[&str]| report(flags)["bytes"].as_u64().unwrap();
    let (dense, int8) = (bytes(&[]), bytes(&["--quantize", "int8"]));
    let int4 = bytes(&["--quantize", "int4", "--quantize-head", "int8"]);
    assert!(int4 < int8 && int8 < dense, "{int4} {int8} {dense}");
    let head = report(&["--quantize", "int8", "--quantize-head", "int8"]);
    let formats: Vec<_> = head["formats"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    // Embeddings and head are one table there.
    assert!(formats.contains(&"w8a8") && formats.contains(&"int8 channel"), "{formats:?}");
    let plan = |flags: &[&str]| -> u64 {
        let args = [&["plan", "--json", "--backend", "reference"], flags].concat();
        let plan: Value = serde_json::from_str(&stdout(&args)).unwrap();
        plan["weights_bytes"].as_u64().unwrap()
    };
    assert!(plan(&["--quantize", "nf4"]) < plan(&[]));
}

#[test]
fn a_quantised_model_still_writes_text() {
    // Its answer is far ahead of all others: rounding to 8 bits does not change it, whichever
    // kernels a processor runs.
    let question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n\
                    <think>\n\n</think>\n\n";
    let text = |flags: &[&str]| {
        let args = ["generate", question, "-n", "16", "--temperature", "0", "--no-display-prompt"];
        stdout(&[&args, flags].concat())
    };
    for format in ["int8", "int4", "fp8", "nf4"] {
        let made = text(&["--quantize", format, "--quantize-head", "int8"]);
        assert!(made.contains(char::is_alphabetic), "{format}: {made:?}");
    }
    let answer = "Paris is the capital of France.\n";
    assert_eq!([text(&[]), text(&["--quantize", "int8"])], [answer, answer]);
}

#[test]
fn what_is_quantised_already_is_refused() {
    let gguf = repo("tests/golden/gguf/i_llama_smollm2like.gguf").display().to_string();
    refuses(&["quantize", &gguf, "--format", "int8", "-o", "/nowhere/at/all"], &["GGUF", "nvllm convert"]);
    refuses(&["quantize", "nvllm-tiny", "--format", "int8", "-o", "/nowhere/at/all"], &["nvllm-tiny"]);
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_complete_files_and_the_same_command_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (repo("models/nvllm-tiny").display().to_string(), dir.path().join("out"));
    let place = out.display().to_string();
    let args = ["quantize", &model, "--format", "nf4", "--max-shard-size", "300KB", "-o", &place];
    let mut child = command(&args).spawn().unwrap();
    let is_weights = |name: &String| name.ends_with(".safetensors");
    while child.try_wait().unwrap().is_none() && !names(&out).iter().any(is_weights) {
        std::thread::sleep(Duration::from_millis(1));
    }
    interrupt(&child);
    let code = ends(child).status.code();
    // A machine may be done before the signal comes.
    assert!(code == Some(130) || code == Some(0), "{code:?}");
    let left = names(&out);
    assert!(left.iter().any(is_weights) && !left.iter().any(|name| name.contains(".part")), "{left:?}");
    if code == Some(130) {
        assert!(!left.contains(&"config.json".to_owned()), "{left:?}");
        assert_eq!(stdout(&args).trim_end(), place);
    }
    let whole = names(&out);
    assert!(whole.contains(&"config.json".to_owned()) && whole.contains(&"tokenizer.json".to_owned()));
    assert!(!whole.iter().any(|name| name.starts_with('.')), "{whole:?}");
}
