//! How a model is named, fetched, listed and removed, and what is said meanwhile.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::mock::{Fault, ID, MockHub, RepoFile, TOKEN};
use super::server::Reply;
use super::support::{check_refusal, command, ends, fixture, interrupt, refuses, repo, stdout};

/// The binary with the mock's hub and cache.
fn with_hub(mock: &MockHub, args: &[&str]) -> Command {
    let mut command = command(args);
    command
        .env("HF_HUB_CACHE", mock.cache.path())
        .env("HF_ENDPOINT", mock.hub.url())
        .env_remove("HF_HUB_OFFLINE");
    command
}

fn run(mock: &MockHub, args: &[&str]) -> Output {
    with_hub(mock, args).output().expect("the binary starts")
}

/// Standard output and standard error of a run that succeeds.
fn succeeds(output: Output) -> (String, String) {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains('\x1b'), "escape codes without a terminal: {stderr:?}");
    (String::from_utf8(output.stdout).unwrap(), stderr)
}

fn tiny() -> MockHub {
    MockHub::with_model(&fixture("a_qwen3_tied_gqa"))
}

/// A model that is the demo's but for some files.
fn demo_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        let path = dir.path().join(file);
        match files.iter().find(|(name, _)| *name == file) {
            Some((_, content)) => std::fs::write(path, content).unwrap(),
            None => drop(std::fs::copy(repo("models/nvllm-tiny").join(file), path).unwrap()),
        }
    }
    dir
}

#[test]
fn a_model_is_pulled_listed_run_and_removed() {
    let mock = tiny();
    let (path, notices) = succeeds(run(&mock, &["pull", ID]));
    let path = path.trim_end();
    assert!(Path::new(path).join("config.json").is_file(), "{path}");
    for part in [
        "fetched config.json (",
        "fetched model.safetensors (",
        "acme/tiny-1@main (01234567): Qwen3ForCausalLM, ",
    ] {
        assert!(notices.contains(part), "{notices}");
    }
    // What is there is not fetched again, and a script reads one line.
    let (again, notices) = succeeds(run(&mock, &["pull", "--model", ID, "--json"]));
    let report: Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&report["path"], &report["revision"]), (&json!(path), &json!("main")));
    assert!(!notices.contains("fetched"), "{notices}");

    let (table, _) = succeeds(run(&mock, &["list"]));
    let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["MODEL", "REVISION", "SIZE", "ARCHITECTURE"]);
    assert!(rows[1][0] == "nvllm-tiny" && rows[1].contains(&"Qwen3ForCausalLM"), "{table}");
    assert!(
        rows[2].starts_with(&[ID, "main", "(01234567)"]) && rows[2].ends_with(&["Qwen3ForCausalLM"]),
        "{table}"
    );
    let (list, _) = succeeds(run(&mock, &["list", "--json"]));
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["models"][1]["revisions"][0]["bytes"], report["bytes"], "nothing else was fetched");
    let mut offline = with_hub(&mock, &["info", "--json", ID]);
    succeeds(offline.env("HF_HUB_OFFLINE", "1").output().unwrap());

    let (removed, _) = succeeds(run(&mock, &["rm", ID]));
    assert!(removed.starts_with("removed acme/tiny-1: ") && removed.ends_with(" freed\n"), "{removed}");
    check_refusal(&run(&mock, &["rm", ID]), &["rm"], &["acme/tiny-1 is not in the cache at"]);
    assert_eq!(succeeds(run(&mock, &["list"])).0.lines().count(), 2);
}

/// What `pull` prints is a model, whatever else of the repository is there, and `list` names each.
#[test]
fn each_gguf_file_is_pulled_run_and_listed_by_its_type() {
    let mock = MockHub::with_files(std::collections::BTreeMap::new());
    let content = std::fs::read(fixture("gguf").join("a_qwen3_tied_gqa.gguf")).unwrap();
    for name in ["m-Q4_K_M.gguf", "q8/m-Q8_0.gguf"] {
        let file = RepoFile { content: content.clone(), large: true };
        mock.repo.lock().unwrap().files.insert(name.into(), file);
    }
    for (name, variant, file) in
        [(ID, Value::Null, "m-Q4_K_M.gguf"), ("acme/tiny-1:Q8_0", json!("Q8_0"), "q8/m-Q8_0.gguf")]
    {
        let (path, _) = succeeds(run(&mock, &["pull", name]));
        let path = path.trim_end();
        assert!(path.ends_with(file), "{path}");
        succeeds(command(&["info", path]).output().unwrap());
        let (report, _) = succeeds(run(&mock, &["pull", name, "--json"]));
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!((&report["path"], &report["variant"]), (&json!(path), &variant));
    }
    let (table, _) = succeeds(run(&mock, &["list"]));
    let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split_whitespace().collect()).collect();
    let cells = |row: &[&str]| (row[0].to_owned(), row[row.len() - 1].to_owned());
    let expected =
        ["acme/tiny-1:Q4_K_M", "acme/tiny-1:Q8_0"].map(|name| (name.into(), "Qwen3ForCausalLM".into()));
    assert_eq!(rows[rows.len() - 2..].iter().map(|row| cells(row)).collect::<Vec<_>>(), expected, "{table}");
    assert!(!table.contains("cannot run"), "{table}");
    let (list, _) = succeeds(run(&mock, &["list", "--json"]));
    let list: Value = serde_json::from_str(&list).unwrap();
    let variants = list["models"].as_array().unwrap().last().unwrap()["revisions"][0]["variants"].clone();
    assert_eq!(
        (&variants[0]["variant"], &variants[1]["variant"]),
        (&json!("Q4_K_M"), &json!("Q8_0")),
        "{list}"
    );
    assert!(variants[1]["path"].as_str().unwrap().ends_with("q8/m-Q8_0.gguf"), "{list}");
    check_refusal(
        &run(&mock, &["rm", "acme/tiny-1:Q8_0"]),
        &["rm"],
        &["give acme/tiny-1 to remove all of it"],
    );
    succeeds(run(&mock, &["info", "acme/tiny-1:Q8_0"]));
}

#[test]
fn what_cannot_be_run_is_listed_with_the_reason() {
    let mock = MockHub::start();
    check_refusal(&run(&mock, &["pull", ID]), &["pull"], &["model.safetensors", "complete"]);
    let (table, _) = succeeds(run(&mock, &["list"]));
    assert!(table.contains("cannot run: model.safetensors") && table.contains("complete"), "{table}");
    let (list, _) = succeeds(run(&mock, &["list", "--json"]));
    let list: Value = serde_json::from_str(&list).unwrap();
    let revision = &list["models"][1]["revisions"][0];
    assert!(revision["architecture"].is_null() && revision["problem"].is_string(), "{list}");
}

#[test]
fn notices_come_without_a_terminal() {
    let mock = tiny();
    mock.fault("GET", Fault::Instead(Reply::new(503)));
    let (_, notices) = succeeds(run(&mock, &["info", ID]));
    assert!(notices.contains("503") && notices.contains("trying again in "), "{notices}");
    let gone = |args: &[&str]| {
        let mut command = with_hub(&mock, args);
        succeeds(command.env("HF_ENDPOINT", "http://127.0.0.1:9").output().unwrap()).1
    };
    let notices = gone(&["info", ID]);
    assert!(
        notices.contains("the hub cannot be reached") && notices.contains("using the cached files"),
        "{notices}"
    );
    assert_eq!(gone(&["info", ID, "--quiet"]), "");
}

#[test]
fn a_token_is_read_from_its_file_unless_that_is_forbidden() {
    let mock = tiny();
    mock.repo.lock().unwrap().needs_token = true;
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let pull = |forbidden: &str| {
        let mut command = with_hub(&mock, &["pull", ID]);
        command.env("HF_HOME", home.path()).env("HF_HUB_DISABLE_IMPLICIT_TOKEN", forbidden);
        command.env_remove("HF_TOKEN").env_remove("HUGGING_FACE_HUB_TOKEN").output().unwrap()
    };
    check_refusal(&pull("YES"), &["pull"], &["401", "HF_TOKEN"]);
    succeeds(pull("0"));
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_a_download_that_goes_on_later() {
    let mock = tiny();
    let size = mock.repo.lock().unwrap().files["model.safetensors"].content.len();
    mock.fault("CDN model.safetensors", Fault::StallAt(size / 2));
    let partial = format!("{}.incomplete", mock.blob("model.safetensors").display());
    let child = with_hub(&mock, &["pull", "--quiet", ID]).spawn().unwrap();
    let here = || std::fs::metadata(&partial).map_or(0, |metadata| metadata.len() as usize);
    while here() < size / 2 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    interrupt(&child);
    assert_eq!(ends(child).status.code(), Some(130));
    assert_eq!(here(), size / 2);
    mock.cdn.take_log();
    succeeds(run(&mock, &["pull", ID]));
    assert_eq!(mock.cdn_ranges(), [Some(format!("bytes={}-", size / 2))]);
}

#[test]
fn the_demo_has_a_name() {
    let by_name = stdout(&["generate", "-m", "nvllm-tiny", "-n", "4", "--seed", "1", "Hi"]);
    assert_eq!(by_name, stdout(&["generate", "-n", "4", "--seed", "1", "Hi"]));
    for near in ["nvllm_tiny", "nvllm-Tiny", "nvlm-tiny"] {
        refuses(&["generate", "-m", near, "Hi"], &["did you mean nvllm-tiny, the demo in this program?"]);
    }
    refuses(&["rm", "nvllm-tiny"], &["is part of this program"]);
    let output = command(&["pull", "nvllm-tiny"]).output().unwrap();
    assert!(succeeds(output).1.contains("nothing to fetch"));
}

#[test]
fn directories_by_every_spelling() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("m");
    std::fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("a_qwen3_tied_gqa").join(file), model.join(file)).unwrap();
    }
    for name in ["~/m", "~/m/", &format!("{}/", model.display())] {
        let output = command(&["info", name]).env("HOME", home.path()).output().unwrap();
        succeeds(output);
    }
    let config = model.join("config.json");
    refuses(&["info", config.to_str().unwrap()], &["one file of a model; give its directory: "]);
    refuses(&["pull", model.to_str().unwrap()], &["is a directory here: there is nothing to fetch"]);
    refuses(&["info", "/no/such/directory"], &["there is no such directory (/no does not exist)"]);
    refuses(&["info", "models/x.gguf"], &["there is no such file"]);
}

#[test]
fn sampling_defaults_of_a_checkpoint_are_advice() {
    let defaults = r#"{"top_k": -1, "top_p": 7, "suppress_tokens": [1], "max_new_tokens": 3, "eos_token_id": [2, 999999]}"#;
    let dir = demo_with(&[("generation_config.json", defaults)]);
    let model = dir.path().to_str().unwrap();
    let errors = |args: &[&str]| succeeds(command(args).output().unwrap()).1;
    assert_eq!(errors(&["info", model]), "", "only who samples is told");
    let notes = errors(&["generate", "-m", model, "--seed", "1", "Hi"]);
    for part in
        ["`top_p` is 7, not a number", "`suppress_tokens` is [1]", "`eos_token_id` is 999999", " 3 out"]
    {
        assert_eq!(notes.matches(part).count(), 1, "{part}: {notes}");
    }
    assert!(!notes.contains("top_k"), "-1 means off: {notes}");
    // A flag says it instead.
    let notes = errors(&["generate", "-m", model, "--top-p", "1", "--ignore-eos", "-n", "2", "Hi"]);
    assert!(
        !notes.contains("top_p") && !notes.contains("eos_token_id") && notes.contains(" 2 out"),
        "{notes}"
    );
}

#[test]
fn stand_ins_for_files_and_quantised_checkpoints_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 16011264\n";
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        let dir = demo_with(&[(file, pointer)]);
        refuses(
            &["generate", "-m", dir.path().to_str().unwrap(), "Hi"],
            &[file, "is a Git LFS pointer", "git lfs pull"],
        );
    }
    let config = std::fs::read(repo("models/nvllm-tiny/config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    for (field, value, words) in [
        (
            "quantization_config",
            json!({"quant_method": "gptq", "bits": 3}),
            "`quantization_config.bits` is 3; 4 and 8 are",
        ),
        (
            "quantization_config",
            json!({"quant_method": "hqq"}),
            "quant_method` is \"hqq\"; gptq (4 and 8 bits), awq (gemm),",
        ),
        ("quantization", json!({"group_size": 64, "bits": 4}), "`quantization` is how MLX says it; gptq"),
    ] {
        config[field] = value;
        let dir = demo_with(&[("config.json", &config.to_string())]);
        refuses(&["info", dir.path().to_str().unwrap()], &["config.json: ", words]);
    }
    // Where config.json is silent the tensors tell.
    let dir = demo_with(&[]);
    let data = [0; 4];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I32, vec![1], &data).unwrap();
    let bytes = safetensors::serialize([("model.layers.0.mlp.up_proj.qweight", view)], None).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    refuses(
        &["info", dir.path().to_str().unwrap()],
        &[
            "`quantization_config` is missing",
            "`model.layers.0.mlp.up_proj.qweight` is a part of a quantised weight",
        ],
    );
}

#[test]
fn quantised_checkpoints_say_their_format_and_run() {
    for (name, format) in
        [("bnb_nf4_double", "nf4"), ("gptq_4bit_act_order", "gptq act-order in groups of 32")]
    {
        let model = fixture("quant").join(name);
        let model = model.to_str().unwrap();
        let info: Value = serde_json::from_str(&stdout(&["info", "--json", model])).unwrap();
        let formats = info["formats"].as_array().unwrap();
        assert!(formats.contains(&json!(format)) && formats.contains(&json!("bf16")), "{info}");
        assert_eq!(info["dtype"], "bf16");
        assert!(stdout(&["info", model]).contains(format));
        let logits = command(&["logits", "-m", model, "--ids", "1,2,3", "--out", "-"]).output().unwrap();
        assert!(logits.status.success() && logits.stdout.len() > 3 * 128 * 4, "{logits:?}");
    }
}

/// A tokenizer that was saved as vocabulary and merges: run where its class is known, named where
/// it is not.
#[test]
fn a_tokenizer_without_tokenizer_json_is_run_or_named() {
    let dir = demo_with(&[]);
    let model = dir.path().to_str().unwrap();
    let whole: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("tokenizer.json")).unwrap()).unwrap();
    let pieces = |merge: &Value| format!("{} {}\n", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
    let merges: String = whole["model"]["merges"].as_array().unwrap().iter().map(pieces).collect();
    let args = ["generate", "-m", model, "--temperature", "0", "-n", "8", "Once upon a time"];
    let expected = stdout(&args);
    std::fs::write(dir.path().join("vocab.json"), whole["model"]["vocab"].to_string()).unwrap();
    std::fs::write(dir.path().join("merges.txt"), format!("#version: 0.2\n{merges}")).unwrap();
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(stdout(&args), expected);
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"tokenizer_class": "GPT2Tokenizer"}"#)
        .unwrap();
    refuses(
        &args,
        &["there is no tokenizer.json", "vocab.json is not read for GPT2Tokenizer", "save_pretrained"],
    );
}

#[test]
fn commands_that_need_no_network_do_not_read_its_variables() {
    for name in ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"] {
        let output = command(&["list"]).env(name, "soon").output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
