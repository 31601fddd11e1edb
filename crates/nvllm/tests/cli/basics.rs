//! What the commands print, and what they say to bad input.

use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::support::{
    changed, check_refusal, fixture, is_usage_error, nvllm, refuses, repo, stdout, with_config,
};

#[test]
fn generate_reports_the_golden_tokens() {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(repo("tests/golden/nvllm-tiny.json")).unwrap()).unwrap();
    let case = golden["cases"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["input"].is_string())
        .expect("a plain text")
        .clone();
    let n = case["output_ids"].as_array().unwrap().len().to_string();
    let prompt = case["prompt"].as_str().unwrap();
    let args = [
        "generate",
        prompt,
        "-t",
        "0",
        "--repetition-penalty",
        "1",
        "-n",
        &n,
        "--activations",
        "f32",
        "--ignore-eos",
        "--json",
        "--logprobs",
        "2",
    ];
    let report: Value = serde_json::from_str(&stdout(&args)).unwrap();
    assert_eq!(report["token_ids"], case["output_ids"]);
    assert_eq!(report["finish_reason"], "length");
    let first = &report["logprobs"][0];
    assert_eq!(first["id"], case["output_ids"][0]);
    let golden_logprob = case["top5_first5"][0][0][1].as_f64().unwrap();
    assert!(
        (first["logprob"].as_f64().unwrap() - golden_logprob).abs() < 1e-3,
        "{first} against {golden_logprob}"
    );
    assert!(report["speed"]["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
    let args = [&args[..], &["--roofline"]].concat();
    let report: Value = serde_json::from_str(&stdout(&args)).unwrap();
    assert!(report["speed"]["read_bandwidth_bytes_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let once = || nvllm(&["generate", "Once", "-n", "9", "--seed", "5"]).stdout;
    assert_eq!(once(), once());
}

/// Largest difference between the logits that the binary writes and the fixture's.
fn logits_error(name: &str, seq: &Value, extra: &[&str]) -> f32 {
    let dir = tempfile::tempdir().unwrap();
    let (ids, out) = (dir.path().join("ids.json"), dir.path().join("logits.safetensors"));
    let positions = dir.path().join("positions.json");
    std::fs::write(&ids, seq["input_ids"].to_string()).unwrap();
    std::fs::write(&positions, seq["position_ids"].to_string()).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (model, ids, positions, out_name) = (path(&fixture(name)), path(&ids), path(&positions), path(&out));
    let mut args = vec!["logits", "-m", &model, "--ids", &ids, "--positions", &positions, "--out", &out_name];
    args.extend(extra);
    stdout(&args);
    let floats =
        |bytes: &[u8]| bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>();
    let bytes = std::fs::read(&out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let got = file.tensor("logits").unwrap();
    assert_eq!(got.shape(), [seq["input_ids"].as_array().unwrap().len(), 320]);
    let expected = std::fs::read(fixture(name).join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let expected = floats(expected.tensor(&format!("seq{}.logits", seq["seq"])).unwrap().data());
    floats(got.data()).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_are_the_ones_that_transformers_computes() {
    for (name, tolerance) in [("b_qwen3_untied_sharded", 1e-3), ("d_qwen3_theta1e6_longpos", 5e-3)] {
        let expected: Value =
            serde_json::from_slice(&std::fs::read(fixture(name).join("expected.json")).unwrap()).unwrap();
        for seq in expected["sequences"].as_array().unwrap() {
            for extra in [
                &["--max-num-batched-tokens", "5"][..],
                &["--expand", "attention"],
                &["--backend", "reference"],
            ] {
                let error = logits_error(name, seq, extra);
                assert!(error <= tolerance, "{name} {extra:?}: off by {error}");
            }
        }
    }
}

#[test]
fn info_and_plan_count_what_is_there() {
    let info: Value = serde_json::from_str(&stdout(&["info", "--json"])).unwrap();
    assert_eq!(info["parameters"], 8_000_768);
    assert_eq!(info["bytes"], 2 * 8_000_768);
    assert_eq!(info["bytes_in_memory"], info["bytes"]);
    let sum: u64 =
        info["weights"].as_object().unwrap().values().map(|kind| kind["bytes"].as_u64().unwrap()).sum();
    assert_eq!(sum, 2 * 8_000_768);
    assert!(stdout(&["info", "--program"]).contains("program generate {"));
    let args = ["plan", "--json", "--max-num-seqs", "2", "--max-model-len", "64", "--block-size", "16"];
    let plan: Value = serde_json::from_str(&stdout(&args)).unwrap();
    // 8 layers of 2 heads of 64, keys and values, two bytes each.
    assert_eq!(plan["kv_bytes_per_token"], 8 * 2 * 64 * 2 * 2);
    assert_eq!(plan["kv_cache_bytes"], (1 + 2 * 4) * 16 * 4096);
    let total: u64 =
        ["weights_bytes", "kv_cache_bytes", "arena_bytes"].iter().map(|k| plan[*k].as_u64().unwrap()).sum();
    assert_eq!(plan["total_bytes"], total);
    assert!(stdout(&["plan"]).contains("fits"));
    // Without a GPU too, scratch included.
    for (profile, memory) in [("h100", 84_462_993_408_u64), ("h200", 149_557_477_376)] {
        let plan = stdout(&["plan", "--json", "--device-profile", profile]);
        let plan: Value = serde_json::from_str(&plan).unwrap();
        assert_eq!(plan["memory_bytes"], memory);
        assert!(plan["backend"] == "cuda" && plan["fits"] == true, "{plan}");
        assert!(plan["scratch_bytes"].as_u64() > Some(1 << 20), "{plan}");
    }
    let args = ["plan", "--device-profile", "h100", "--backend", "cpu"];
    is_usage_error(&args, &["--device-profile"]);
    let fast: Value = serde_json::from_str(&stdout(&["plan", "--json", "--numerics", "fast"])).unwrap();
    assert_eq!(
        (&plan["limits"]["numerics"], &fast["limits"]["numerics"]),
        (&"invariant".into(), &"fast".into())
    );
}

/// A GPU that no machine has: without a driver the message says so, with one it counts the GPUs.
#[test]
fn a_gpu_that_is_not_there_is_refused_in_one_line() {
    let args = ["generate", "x", "--backend", "cuda", "--gpu", "99"];
    let output = nvllm(&args);
    check_refusal(&output, &args, &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let known = ["no NVIDIA driver", "sees no GPU", "GPU 99 was asked for"];
    assert!(known.iter().any(|words| stderr.contains(words)), "{stderr}");
}

#[test]
fn more_threads_than_processors_are_remarked_on_once() {
    let output = nvllm(&["generate", "--threads", "999", "--backend", "cpu", "-n", "1", "hi"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.matches("warning: --threads 999, but this process may use ").count(), 1, "{stderr}");
    assert!(
        !String::from_utf8_lossy(&nvllm(&["generate", "-n", "1", "hi"]).stderr)
            .contains("warning: --threads")
    );
}

fn refuses_model(dir: &tempfile::TempDir, words: &[&str]) {
    let model = dir.path().to_str().unwrap();
    let out = dir.path().join("out.safetensors");
    refuses(&["logits", "-m", model, "--ids", "1,2", "--out", out.to_str().unwrap()], words);
}

#[test]
fn damaged_models_are_refused_by_file_and_field() {
    let weights = |dir: &Path| dir.join("model.safetensors");
    let cut = changed(|dir| {
        let bytes = std::fs::read(weights(dir)).unwrap();
        std::fs::write(weights(dir), &bytes[..bytes.len() - 100]).unwrap();
    });
    refuses_model(&cut, &["model.safetensors", "complete"]);
    let noise = changed(|dir| std::fs::write(weights(dir), [0xff; 64]).unwrap());
    refuses_model(&noise, &["model.safetensors"]);
    let none = changed(|dir| std::fs::remove_file(weights(dir)).unwrap());
    refuses_model(&none, &["model.safetensors"]);
    let no_config = changed(|dir| std::fs::remove_file(dir.join("config.json")).unwrap());
    refuses_model(&no_config, &["config.json"]);
    let bad_json = changed(|dir| std::fs::write(dir.join("config.json"), "{").unwrap());
    refuses_model(&bad_json, &["config.json", "JSON"]);
    refuses_model(&with_config("hidden_size", &json!(128)), &["tensor `model.", "shape"]);
    refuses_model(&with_config("num_hidden_layers", &json!(4)), &["model.layers.3.", "missing"]);
    refuses_model(&with_config("num_hidden_layers", &json!(2)), &["model.layers.2.", "not part"]);
    refuses_model(&with_config("num_attention_heads", &json!(0)), &["num_attention_heads"]);
    refuses_model(&with_config("vocab_size", &json!(u64::MAX)), &["vocab_size"]);
    refuses_model(
        &with_config("architectures", &json!(["GPT2LMHeadModel"])),
        &["GPT2LMHeadModel", "Qwen3ForCausalLM"],
    );
    let integers = changed(|dir| {
        let bytes = std::fs::read(weights(dir)).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("\"BF16\""));
        let mut changed = bytes;
        let header = u64::from_le_bytes(changed[..8].try_into().unwrap()) as usize;
        let head =
            String::from_utf8(changed[8..8 + header].to_vec()).unwrap().replace("\"BF16\"", "\"I16\" ");
        changed[8..8 + header].copy_from_slice(head.as_bytes());
        std::fs::write(weights(dir), changed).unwrap();
    });
    refuses_model(&integers, &["I16", "bf16"]);
}

#[test]
fn an_empty_value_is_a_bad_command_line() {
    for (args, flag) in [
        (&["generate", ""][..], "PROMPT"),
        (&["generate", "-p", ""], "--prompt"),
        (&["generate", "x", "--stop", ""], "--stop"),
        (&["chat", "x", "--stop", ""], "--stop"),
        (&["generate", "x", "-m", ""], "--model"),
        (&["info", "-m", ""], "--model"),
        (&["info", ""], "MODEL"),
        (&["logits", "--ids", "", "--out", "-"], "--ids"),
        (&["logits", "--ids", "1", "--positions", "", "--out", "-"], "--positions"),
    ] {
        is_usage_error(args, &[flag]);
    }
}

#[test]
fn tokens_that_the_model_lacks_are_refused_before_it_is_loaded() {
    // Loading would refuse so small a cache.
    for command in ["generate", "chat"] {
        let args = [command, "x", "--kv-cache-bytes", "1000", "--logit-bias", "99999=1"];
        refuses(&args, &["--logit-bias is for token 99999"]);
    }
}

#[test]
fn bad_requests_are_refused_with_advice() {
    let a = fixture("a_qwen3_tied_gqa");
    let a = a.to_str().unwrap();
    refuses(&["generate", "x", "-m", "no/such"], &["no/such"]);
    refuses(&["generate", "x", "-m", "/no/such/directory"], &["/no/such/directory"]);
    refuses(&["generate", "x", "-m", a], &["tokenizer.json"]);
    // The same truth, whichever command meets it.
    refuses(&["chat", "x", "-m", a], &["tokenizer.json"]);
    refuses(&["generate", &"word ".repeat(3000)], &["context"]);
    refuses(&["generate", "x", "--max-model-len", "999999"], &["max-model-len", "2048"]);
    refuses(&["generate", "x", "--kv-cache-bytes", "1000"], &["kv"]);
    refuses(&["generate", "x", "--expand", "rope"], &["--expand rope"]);
    let out = std::env::temp_dir().join("nvllm-cli-test-never-written");
    let out = out.to_str().unwrap();
    refuses(&["logits", "-m", a, "--ids", "1,400", "--out", out], &["400", "vocabulary"]);
    refuses(&["logits", "-m", a, "--ids", "1,2", "--positions", "0", "--out", out], &["position"]);
    refuses(&["logits", "-m", a, "--ids", ",", "--out", out], &["--ids"]);
    refuses(
        &["logits", "-m", a, "--ids", "1", "--out", "/no/such/directory/file"],
        &["/no/such/directory/file"],
    );
}
