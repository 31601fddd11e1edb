//! `nvllm generate`: its inputs, its forms of output, its conventions.

use serde_json::Value;

use super::support::{check_refusal, is_usage_error, nvllm, nvllm_reading, refuses, repo, stdout};

/// Greedy, short and the same each time.
const SHORT: [&str; 4] = ["-t", "0", "-n", "6"];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

fn closing_line(args: &[&str]) -> String {
    let output = nvllm(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    stderr.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_prompt_comes_from_an_argument_an_option_a_file_or_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prompt.txt");
    std::fs::write(&path, "The king").unwrap();
    let path = path.to_str().unwrap();
    let text = stdout(&with(&["generate", "The king"], &SHORT));
    assert!(text.starts_with("The king") && text.len() > "The king\n".len(), "{text}");
    for source in [&["-p", "The king"][..], &["-f", path], &["--file", path], &["--prompt=The king"]] {
        assert_eq!(stdout(&with(&with(&["generate"], source), &SHORT)), text, "{source:?}");
    }
    for source in [&["-"][..], &["-f", "-"]] {
        let output = nvllm_reading(&with(&with(&["generate"], source), &SHORT), b"The king");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "{source:?}");
    }
    let without = stdout(&with(&["generate", "The king", "--no-display-prompt"], &SHORT));
    assert_eq!(format!("The king{without}"), text);
    is_usage_error(&["generate"], &["PROMPT"]);
    is_usage_error(&["generate", "a", "-f", path], &["cannot be used with"]);
    refuses(&["generate", "-f", "/no/such/file"], &["cannot read /no/such/file"]);
}

#[test]
fn many_prompts_run_together_and_answer_as_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prompts.jsonl");
    let prompts = ["Once upon a time", "The king said", "A long\nline"];
    let lines: Vec<_> = prompts.iter().map(|prompt| Value::from(*prompt).to_string()).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    let path = path.to_str().unwrap();
    let flags = ["-n", "12", "--seed", "3", "--logprobs", "1"];
    let many = stdout(&with(&["generate", "--prompts", path, "--json"], &flags));
    let many: Value = serde_json::from_str(&many).unwrap();
    let streamed = stdout(&with(&["generate", "--prompts", path, "--jsonl", "--max-num-seqs", "2"], &flags));
    let streamed: Vec<Value> = streamed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (index, prompt) in prompts.iter().enumerate() {
        let alone = stdout(&with(&["generate", prompt, "--json"], &flags));
        let alone: Value = serde_json::from_str(&alone).unwrap();
        for field in ["prompt", "text", "token_ids", "logprobs", "finish_reason", "usage", "seed"] {
            assert_eq!(many[index][field], alone[field], "{prompt}: {field}");
        }
        let mine: Vec<_> = streamed.iter().filter(|line| line["index"] == index).collect();
        let (end, tokens) = mine.split_last().unwrap();
        assert_eq!((&end["text"], &end["usage"]), (&alone["text"], &alone["usage"]), "{prompt}");
        let ids: Vec<_> = tokens.iter().map(|line| line["token_id"].clone()).collect();
        assert_eq!(Value::from(ids), alone["token_ids"], "{prompt}");
    }
    let text = stdout(&with(&["generate", "--prompts", path], &["-n", "4", "-t", "0"]));
    assert!(
        text.contains("==> prompt 1 <==\nOnce upon a time") && text.contains("==> prompt 3 <=="),
        "{text}"
    );
    std::fs::write(path, "\n\n").unwrap();
    refuses(&["generate", "--prompts", path], &["prompts.jsonl", "no prompts"]);
    // A byte order mark, as some editors write one, is not part of the first prompt.
    std::fs::write(path, "\u{feff}\"Once\"\n").unwrap();
    let text = stdout(&with(&["generate", "--prompts", path, "--jsonl"], &["-n", "4", "-t", "0"]));
    let alone = stdout(&with(&["generate", "Once", "--jsonl"], &["-n", "4", "-t", "0"]));
    let ids = |text: &str| -> Vec<Value> {
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["token_id"].clone()).collect()
    };
    assert_eq!(ids(&text), ids(&alone));
    let end: Value = serde_json::from_str(alone.lines().last().unwrap()).unwrap();
    assert!(end["speed"]["time_to_first_token_s"].as_f64().unwrap() > 0.0, "{end}");
}

#[test]
fn log_probabilities_carry_the_bytes_of_parts_of_characters() {
    // The first of a crab's four bytes.
    let args = ["generate", "x", "-n", "1", "-t", "0", "--json", "--logprobs", "20", "--logit-bias"];
    let bias = format!("{}=100", byte_token(0xf0));
    let report: Value = serde_json::from_str(&stdout(&with(&args, &[&bias]))).unwrap();
    let score = &report["logprobs"][0];
    assert_eq!(score["bytes"], serde_json::json!([0xf0]));
    assert_eq!(score["token"], "\u{fffd}");
    let top = score["top_logprobs"].as_array().unwrap();
    let spelled = |token: &Value| token["bytes"].as_array().is_some_and(|bytes| !bytes.is_empty());
    assert!(top.len() == 20 && top.iter().all(spelled), "{top:?}");
}

/// The id of the demo's token for one byte.
fn byte_token(byte: u8) -> usize {
    let file = std::fs::read(super::support::repo("models/nvllm-tiny/tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_slice(&file).unwrap();
    // Byte-level BPE spells the bytes from 0xae on as the characters of the same number.
    let spelled = char::from(byte).to_string();
    tokenizer["model"]["vocab"][&spelled].as_u64().unwrap() as usize
}

#[test]
fn the_closing_line_says_why_it_stopped() {
    let line = closing_line(&["generate", "Once upon a time", "-n", "12", "--seed", "1", "--ignore-eos"]);
    for part in ["4 tokens in, 12 out", "first token after", "tok/s", "stopped at --max-tokens", "seed 1"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!line.contains("% of"), "{line}");
    let full = ["generate", "Once", "-n", "-1", "--max-model-len", "24", "--ignore-eos", "-t", "0"];
    assert!(closing_line(&full).contains("context full"), "{}", closing_line(&full));
    let stop = ["generate", "Once upon a", "-n", "200", "-t", "0", "--stop", " "];
    assert!(closing_line(&stop).contains("stop string"), "{}", closing_line(&stop));
    let chat = ["chat", "Hello", "-t", "0"];
    assert!(closing_line(&chat).contains("end of text"), "{}", closing_line(&chat));
    let roofline = closing_line(&["generate", "Once", "-n", "4", "--roofline", "--ignore-eos"]);
    assert!(roofline.contains("% of the") && roofline.contains("GB/s"), "{roofline}");
    let quiet = nvllm(&["generate", "Once", "-n", "4", "--quiet"]);
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{}", String::from_utf8_lossy(&quiet.stderr));
}

#[test]
fn minus_one_units_and_short_names_are_taken() {
    let text = |args: &[&str]| stdout(&with(&["generate", "Once", "-n", "6", "--seed", "2"], args));
    assert_eq!(text(&["--top-k", "-1"]), text(&["--top-k", "0"]));
    assert_eq!(text(&["--temp", "0.5"]), text(&["-t", "0.5"]));
    assert_eq!(text(&["--kv-cache-bytes", "64MiB"]), text(&[]));
    assert!(nvllm(&["generate", "Once", "-n", "3", "--seed", "-1"]).status.success());
    is_usage_error(&["generate", "x", "-n", "-2"], &["--max-tokens", "-1"]);
    is_usage_error(&["generate", "x", "--kv-cache-bytes", "4 apples"], &["--kv-cache-bytes", "4GiB"]);
    is_usage_error(&["generate", "x", "--logprobs", "2"], &["--logprobs", "--json"]);
    is_usage_error(&["generate", "x", "--json", "--jsonl"], &["--jsonl"]);
}

#[test]
fn every_help_has_examples() {
    for command in ["generate", "chat", "completions"] {
        let help = stdout(&[command, "--help"]);
        assert!(help.matches(&format!("\n  nvllm {command}")).count() >= 2, "{help}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(stdout(&["completions", shell]).contains("nvllm"), "{shell}");
    }
}

/// NaN in a weight is an error and no text, greedy or sampled, and for `logits` too.
#[test]
fn a_model_that_computes_nan_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(repo("models/nvllm-tiny")).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let norm = &json["model.norm.weight"];
    assert_eq!(norm["dtype"], "BF16");
    let at = 8 + header + norm["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + 2].copy_from_slice(&0x7fc0_u16.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let model = dir.path().to_str().unwrap();
    for more in [["-t", "0"], ["-t", "0.7"], ["--numerics", "fast"]] {
        let args = [&["generate", "Once upon", "-m", model, "-n", "4"], &more[..]].concat();
        // Of one bad number in the last norm all logits are.
        check_refusal(&nvllm(&args), &args, &["not numbers", "NaN", "first op", "rms_norm", "norm[256]"]);
    }
    let out = dir.path().join("out.safetensors");
    let args = ["logits", "-m", model, "--ids", "1,2,3", "--out", out.to_str().unwrap()];
    check_refusal(&nvllm(&args), &args, &["not numbers", "NaN"]);
    assert!(!out.exists());
}

#[test]
fn an_answer_follows_a_schema_a_regular_expression_or_a_grammar() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let schema = file(
        "schema.json",
        r#"{"type": "object", "properties": {"n": {"type": "integer", "maximum": 99,
        "minimum": 0}}, "required": ["n"], "additionalProperties": false}"#,
    );
    let grammar = file("grammar.lark", "start: \"It is \" (\"red\" | \"blue\")");
    let plain = ["generate", "The king", "--no-display-prompt", "-t", "0", "-n", "60"];
    let value: Value = serde_json::from_str(&stdout(&with(&plain, &["--json-schema", &schema]))).unwrap();
    assert!(value["n"].as_u64().is_some_and(|n| n < 100), "{value}");
    let text = stdout(&with(&plain, &["--regex", "[a-f]{3}-[0-9]{2}"]));
    assert!(text.trim_end().len() == 6 && text.as_bytes()[3] == b'-', "{text}");
    let text = stdout(&with(&plain, &["--grammar", &grammar]));
    assert!(["It is red\n", "It is blue\n"].contains(&text.as_str()), "{text}");
    is_usage_error(&with(&plain, &["--regex", "a", "--grammar", &grammar]), &["cannot be used with"]);
    refuses(&with(&plain, &["--regex", "("]), &["--regex", "cannot be followed"]);
    refuses(&with(&plain, &["--json-schema", &grammar]), &["--json-schema", "not valid JSON"]);
    refuses(&with(&plain, &["--grammar", "/no/such/file"]), &["cannot read /no/such/file"]);
}
