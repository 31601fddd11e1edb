//! What errors say: once, in the user's terms, with nothing that a terminal would obey.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use super::support::{changed, fixture, is_usage_error, nvllm, refuses, with_config};

/// Renames the tensor `model.norm.weight` to another name of the same length.
fn with_tensor_called(name: &str) -> tempfile::TempDir {
    changed(|dir| {
        let path = dir.join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(17).position(|window| window == b"model.norm.weight").unwrap();
        assert_eq!(name.len(), 17);
        bytes[at..at + 17].copy_from_slice(name.as_bytes());
        std::fs::write(path, bytes).unwrap();
    })
}

/// Adds a tensor that no architecture has.
fn with_extra_tensor(name: &str) -> tempfile::TempDir {
    changed(|dir| {
        let path = dir.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors = file.tensors();
        tensors.push((name.into(), TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap()));
        std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    })
}

/// Parts of a message between stops, and its paths.
fn said_once(line: &str, dir: &Path) {
    let mut parts = HashSet::new();
    for part in line.split([':', ';', '(', ')']).map(str::trim).filter(|part| part.len() > 8) {
        assert!(parts.insert(part), "`{part}` is said twice: {line}");
    }
    let dir = dir.to_str().unwrap();
    assert!(line.matches(dir).count() <= 1, "the path is said twice: {line}");
}

fn error_line(args: &[&str]) -> String {
    let output = nvllm(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    let lines: Vec<_> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{args:?}: {stderr}");
    lines[0].to_owned()
}

#[test]
fn a_broken_model_is_told_once() {
    let file = |name: &str, content: &[u8]| changed(|dir| std::fs::write(dir.join(name), content).unwrap());
    let removed = |name: &str| changed(|dir| std::fs::remove_file(dir.join(name)).unwrap());
    let folder = |name: &str| {
        changed(|dir| {
            std::fs::remove_file(dir.join(name)).unwrap();
            std::fs::create_dir(dir.join(name)).unwrap();
        })
    };
    let models = [
        file("model.safetensors", b""),
        file("model.safetensors", &[0xff; 64]),
        file("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        file("config.json", b"{"),
        file("config.json", b"[]"),
        file("config.json", b"{}"),
        file("generation_config.json", b"nonsense"),
        file("generation_config.json", br#"{"top_p": "x"}"#),
        file("tokenizer.json", b"{}"),
        file("tokenizer.json", b"\xff\xfe"),
        file("tokenizer_config.json", b"{"),
        removed("model.safetensors"),
        removed("config.json"),
        folder("config.json"),
        folder("model.safetensors"),
        with_config("hidden_size", &json!(128)),
        with_config("hidden_size", &json!(null)),
        with_config("num_hidden_layers", &json!(4)),
        with_config("num_hidden_layers", &json!(2)),
        with_config("architectures", &json!(["GPT2LMHeadModel"])),
        with_config("torch_dtype", &json!("int8")),
        with_tensor_called("model.nrom.weight"),
    ];
    for model in &models {
        let dir = model.path().to_str().unwrap();
        let out = model.path().join("out.safetensors");
        for args in [
            &["logits", "-m", dir, "--ids", "1,2", "--out", out.to_str().unwrap()][..],
            &["generate", "-m", dir, "hi"],
            &["plan", "-m", dir],
            &["info", dir],
        ] {
            // Without a tokenizer `generate` says so where nothing else is wrong.
            let output = nvllm(args);
            if output.status.success() {
                continue;
            }
            said_once(&error_line(args), model.path());
            assert!(args[0] != "logits" || !out.exists());
        }
    }
}

#[test]
fn other_failures_are_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let (missing, gone) = (dir.path().join("missing").join("file"), dir.path().join("gone"));
    let (missing, gone) = (missing.to_str().unwrap(), gone.to_str().unwrap());
    let a = fixture("a_qwen3_tied_gqa");
    let a = a.to_str().unwrap();
    for args in [
        &["generate", "-f", missing][..],
        &["generate", "hi", "-m", gone],
        &["generate", "hi", "-m", "no-such-org/no-such-model"],
        &["logits", "-m", a, "--ids", missing, "--out", "x"],
        &["logits", "-m", a, "--ids", "1", "--out", missing],
        &["logits", "-m", a, "--ids", "99999", "--out", "-"],
        &["bench", "decode", "--quick", "--records", missing],
    ] {
        said_once(&error_line(args), dir.path());
    }
}

#[test]
fn info_and_plan_refuse_what_logits_refuses() {
    for model in [
        with_config("hidden_size", &json!(128)),
        with_config("vocab_size", &json!(319)),
        with_config("intermediate_size", &json!(8)),
        with_tensor_called("model.nrom.weight"),
    ] {
        let dir = model.path().to_str().unwrap();
        let logits = error_line(&["logits", "-m", dir, "--ids", "1", "--out", "-"]);
        assert_eq!(error_line(&["info", dir]), logits);
        assert_eq!(error_line(&["plan", dir]), logits);
    }
}

#[test]
fn a_sampling_value_out_of_range_is_a_bad_command_line_before_the_model_is_opened() {
    let cases = [
        ("-t", "-1", "--temperature is -1: use 0 (greedy) to 100"),
        ("--temp", "nan", "--temperature is NaN"),
        ("--top-p", "0", "--top-p is 0: use a number above 0 and up to 1"),
        ("--top-p", "-0.5", "--top-p is -0.5"),
        ("--min-p", "2", "--min-p is 2: use 0 to 1"),
        ("--repetition-penalty", "0", "--repetition-penalty is 0"),
        ("--presence-penalty", "3", "--presence-penalty is 3: use -2 to 2"),
        ("--frequency-penalty", "inf", "--frequency-penalty is inf"),
        ("--logit-bias", "1=1000", "--logit-bias is 1000"),
    ];
    for (flag, value, words) in cases {
        is_usage_error(&["generate", "x", "-m", "no/such", flag, value], &[words]);
        is_usage_error(&["chat", "x", "-m", "no/such", flag, value], &[words]);
    }
    refuses(
        &["generate", "x", "--logit-bias", "99999=1"],
        &["--logit-bias is for token 99999: use token ids from 0 to 8191"],
    );
}

#[test]
fn control_characters_of_a_checkpoint_are_shown_and_not_sent() {
    let escape = "\u{1b}]0;owned\u{7}";
    let escaped_path = |dir: &Path| -> PathBuf { dir.join("tab\u{1b}[31m") };
    let models = [
        with_extra_tensor(&format!("model.norm.{escape}")),
        with_config("architectures", &json!([escape])),
        with_config("torch_dtype", &json!(escape)),
    ];
    for model in &models {
        let output = nvllm(&["info", model.path().to_str().unwrap()]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(!stderr.contains(['\u{1b}', '\u{7}']), "{stderr:?}");
        assert!(stderr.contains("\\u{1b}") || stderr.contains("\\u001b"), "{stderr}");
    }
    // A name that is printed on success is one too.
    let dir = tempfile::tempdir().unwrap();
    let path = escaped_path(dir.path());
    std::fs::create_dir(&path).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("a_qwen3_tied_gqa").join(file), path.join(file)).unwrap();
    }
    for command in ["info", "plan"] {
        let output = nvllm(&[command, path.to_str().unwrap()]);
        assert!(output.status.success());
        assert!(!output.stdout.contains(&0x1b), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn what_a_template_raises_is_shown_and_not_sent() {
    let model = changed(|dir| {
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(super::support::repo("models/nvllm-tiny").join(file), dir.join(file)).unwrap();
        }
        let template = "{{ raise_exception('no \x1b[31m\nroles') }}";
        std::fs::write(dir.join("chat_template.jinja"), template).unwrap();
    });
    let line = error_line(&["chat", "hi", "-m", model.path().to_str().unwrap()]);
    assert!(line.contains("no \\u{1b}[31m roles"), "{line}");
}
