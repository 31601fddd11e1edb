//! What is fetched, from where, and who is told the token.

use std::path::{Path, PathBuf};

use nvllm_engine::EngineError;
use nvllm_engine::hub::{HubId, HubOptions, Weights, resolve};

use crate::mock::{ID, MockHub, RepoFile, TOKEN};
use crate::server::Reply;

#[test]
fn a_model_lands_in_the_standard_layout() {
    let mock = MockHub::start();
    let (files, events) = mock.resolve_with_events();
    let files = files.unwrap();
    let commit = mock.repo.lock().unwrap().commit.clone();
    let repo = mock.cache.path().join("models--acme--tiny-1");
    let snapshot = repo.join("snapshots").join(&commit);
    assert_eq!(files.dir, snapshot);
    assert_eq!(
        files.hub.as_ref().map(|hub| (&hub.id, &hub.commit)),
        Some((&HubId::parse(ID).unwrap(), &commit))
    );
    assert_eq!(files.weights, Weights::Single(snapshot.join("model.safetensors")));
    assert_eq!((files.tokenizer.is_some(), files.chat_template.is_some()), (true, false));
    let fetched: Vec<PathBuf> = [&files.tokenizer, &files.generation_config, &files.tokenizer_config]
        .into_iter()
        .flatten()
        .chain([&files.config, &files.weights.paths()[0]])
        .cloned()
        .collect();
    mock.check_content(&fetched.iter().map(PathBuf::as_path).collect::<Vec<_>>());

    let mut names: Vec<_> = std::fs::read_dir(&snapshot).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    let expected = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected, "README.md is not needed");
    for name in expected {
        let etag = mock.repo.lock().unwrap().files[name].etag();
        assert_eq!(std::fs::read_link(snapshot.join(name)).unwrap(), Path::new("../../blobs").join(etag));
    }
    assert_eq!(std::fs::read_to_string(repo.join("refs/main")).unwrap(), commit);
    let blobs: Vec<_> =
        std::fs::read_dir(repo.join("blobs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(blobs.len() == 5 && blobs.iter().all(|name| !name.to_string_lossy().contains('.')), "{blobs:?}");

    let of = |kind: &str| events.iter().filter(|event| event.starts_with(kind)).count();
    assert_eq!(of("Fetched"), 5);
    for event in [
        "Progress { file: \"model.safetensors\", done: 0, total: 1000003 }",
        "Progress { file: \"model.safetensors\", done: 1000003, total: 1000003 }",
    ] {
        assert!(events.contains(&event.to_owned()), "{events:?}");
    }
    // What is to come is known before anything is fetched.
    let total: usize = {
        let repo = mock.repo.lock().unwrap();
        expected.iter().map(|name| repo.files[*name].content.len()).sum()
    };
    let first = events.iter().position(|event| !event.starts_with("Planned")).unwrap();
    assert_eq!(events[first - 1], format!("Planned {{ num_files: 5, total: {total} }}"));
    assert_eq!(of("Planned") + of("Progress") + of("Fetched"), events.len(), "{events:?}");
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let mock = MockHub::start();
    let first = mock.resolve().unwrap();
    mock.hub.take_log();
    mock.cdn.take_log();
    assert_eq!(mock.resolve().unwrap(), first);
    assert_eq!(mock.hub.take_log().len(), 1, "only the listing");

    // The branch moves on: unchanged files keep their blobs.
    {
        let mut repo = mock.repo.lock().unwrap();
        repo.commit = "f".repeat(40);
        repo.files
            .insert("chat_template.jinja".into(), RepoFile { content: b"{{ x }}".to_vec(), large: false });
    }
    let second = mock.resolve().unwrap();
    assert_ne!(second.dir, first.dir);
    mock.check_content(&[second.chat_template.as_deref().unwrap(), &second.weights.paths()[0]]);
    assert!(mock.cdn.take_log().is_empty());
    let gets =
        mock.hub.take_log().into_iter().filter(|seen| seen.method == "GET" && !seen.target.contains("/api/"));
    assert_eq!(
        gets.map(|seen| seen.target).collect::<Vec<_>>(),
        [format!("/{ID}/resolve/{}/chat_template.jinja", "f".repeat(40))]
    );
}

#[test]
fn the_token_is_told_to_the_hub_only() {
    let mock = MockHub::start();
    mock.repo.lock().unwrap().needs_token = true;
    let message = mock.resolve().unwrap_err().to_string();
    assert!(
        message.contains("no such repository, or a private one (401)") && message.contains("HF_TOKEN"),
        "{message}"
    );
    assert!(message.starts_with("acme/tiny-1@main (http://127.0.0.1:"), "{message}");
    mock.hub.take_log();

    let options = HubOptions { token: Some(TOKEN.into()), ..mock.options() };
    resolve(ID, &options, &mut |_| {}).unwrap();
    let (hub, cdn) = (mock.hub.take_log(), mock.cdn.take_log());
    assert!(hub.len() > 5 && hub.iter().all(|seen| seen.header("authorization") == Some("Bearer hf_secret")));
    assert_eq!(cdn.len(), 2, "the two large files");
    assert!(cdn.iter().all(|seen| seen.header("authorization").is_none()));
    assert!(!format!("{options:?}").contains(TOKEN));

    let wrong = HubOptions { token: Some("hf_wrong".into()), ..MockHub::start().options() };
    let wrong = HubOptions { endpoint: mock.hub.url(), ..wrong };
    let message = resolve(ID, &wrong, &mut |_| {}).unwrap_err().to_string();
    assert!(
        message.contains("the access token does not open it") && !message.contains("hf_wrong"),
        "{message}"
    );
}

#[test]
fn a_renamed_repository_is_followed() {
    let mock = MockHub::start();
    mock.repo.lock().unwrap().renamed_from = Some("oldorg/old".into());
    let files = resolve("oldorg/old", &mock.options(), &mut |_| {}).unwrap();
    assert!(files.dir.starts_with(mock.cache.path().join("models--oldorg--old")));
    mock.check_content(&[&files.config, &files.weights.paths()[0]]);
}

#[test]
fn revisions() {
    let mock = MockHub::start();
    let files = resolve(&format!("{ID}@refs/pr/1"), &mock.options(), &mut |_| {}).unwrap();
    let commit = mock.repo.lock().unwrap().commit.clone();
    assert_eq!(files.hub.unwrap().commit, commit);
    let reference = mock.cache.path().join("models--acme--tiny-1/refs/refs/pr/1");
    assert_eq!(std::fs::read_to_string(reference).unwrap(), commit);
    let message = resolve(&format!("{ID}@v9"), &mock.options(), &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("the repository has no revision `v9`"), "{message}");

    // A commit names the same files for ever: no request at all.
    mock.hub.take_log();
    resolve(&format!("{ID}@{commit}"), &mock.options(), &mut |_| {}).unwrap();
    assert!(mock.hub.take_log().is_empty());
}

#[test]
fn shards_are_those_of_the_index() {
    let mock = MockHub::start();
    let shard = |content: &[u8]| RepoFile { content: content.to_vec(), large: true };
    let set_index = |map: &str| {
        let content = format!("{{\"weight_map\":{map}}}").into_bytes();
        let index = RepoFile { content, large: false };
        let mut repo = mock.repo.lock().unwrap();
        repo.commit = format!("{:040x}", map.len());
        repo.files.insert("model.safetensors.index.json".into(), index);
    };
    {
        let mut repo = mock.repo.lock().unwrap();
        repo.files.remove("model.safetensors");
        repo.files.insert("m-1.safetensors".into(), shard(b"one"));
        repo.files.insert("m-2.safetensors".into(), shard(b"two"));
        repo.files.insert("consolidated.safetensors".into(), shard(b"never fetched"));
    }
    set_index(r#"{"a":"m-2.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}"#);
    let files = mock.resolve().unwrap();
    let Weights::Sharded { index, shards } = &files.weights else { panic!("{files:?}") };
    assert_eq!(*shards, [files.dir.join("m-1.safetensors"), files.dir.join("m-2.safetensors")]);
    mock.check_content(&[index, &shards[0], &shards[1]]);
    assert!(!mock.cdn.take_log().iter().any(|seen| seen.target.contains("consolidated")));

    set_index(r#"{"a":"m-3.safetensors"}"#);
    let message = mock.resolve().unwrap_err().to_string();
    assert!(
        message.ends_with("its weight index names m-3.safetensors, which the repository does not have"),
        "{message}"
    );
    set_index(r#"{"a":"../../../../outside.safetensors"}"#);
    let message = mock.resolve().unwrap_err().to_string();
    assert!(message.contains("field `weight_map` maps a to"), "{message}");
}

#[test]
fn repositories_that_cannot_be_used() {
    let mock = MockHub::start();
    let remove = |file: &str| mock.repo.lock().unwrap().files.remove(file);
    let put = |file: &str| {
        mock.repo.lock().unwrap().files.insert(file.into(), RepoFile { content: vec![], large: true })
    };
    remove("model.safetensors");
    put("pytorch_model.bin");
    let message = mock.resolve().unwrap_err().to_string();
    assert!(
        message.starts_with("acme/tiny-1@main: it has no model.safetensors")
            && message.contains("not from pickled files (pytorch_model.bin)"),
        "{message}"
    );
    remove("config.json");
    let message = mock.resolve().unwrap_err().to_string();
    assert!(message.contains("it has no config.json: a model has the layout of"), "{message}");
    let message = resolve("acme/other", &mock.options(), &mut |_| {}).unwrap_err().to_string();
    assert!(
        message.contains("there is no such repository, revision or file (404): check the name"),
        "{message}"
    );

    let gated = Reply::new(403)
        .header("x-error-code", "GatedRepo")
        .header("x-error-message", "Access to this is restricted");
    mock.fault("GET", crate::mock::Fault::Instead(gated));
    let message = mock.resolve().unwrap_err().to_string();
    assert!(
        message.contains("gated: accept its terms") && message.contains("(the hub says: Access to this"),
        "{message}"
    );
    mock.fault("GET", crate::mock::Fault::Instead(Reply::new(403)));
    let error = mock.resolve().unwrap_err();
    assert!(error.to_string().contains("access is forbidden (403)"), "{error}");
    assert!(matches!(error, EngineError::HubRefused { .. }));
}

/// Nobody should wait for gigabytes to be told that they cannot be used.
#[test]
fn models_that_cannot_be_run_are_refused_before_their_weights_come() {
    for (change, words) in [
        (r#"{"architectures": ["GPT2LMHeadModel"]}"#, &["GPT2LMHeadModel", "Qwen3ForCausalLM"][..]),
        (
            r#"{"architectures": ["Qwen3ForCausalLM"], "quantization_config": {"quant_method": "awq", "bits": 3}}"#,
            &["`quantization_config.bits` is 3; 4 is supported"],
        ),
    ] {
        let mock = MockHub::start();
        let config = RepoFile { content: change.into(), large: false };
        mock.repo.lock().unwrap().files.insert("config.json".into(), config);
        let message = mock.resolve().unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
        assert!(!mock.cdn.take_log().iter().any(|seen| seen.target.contains("model.safetensors")));
    }
}

/// Of several types one is fetched, with all of its parts, and found again without the network.
#[test]
fn one_gguf_of_a_repository() {
    let mock = MockHub::start();
    let small =
        ["m-Q8_0.gguf", "m-Q4_K_M.gguf", "F16/m-F16-00001-of-00002.gguf", "F16/m-F16-00002-of-00002.gguf"];
    for name in small {
        let content = format!("GGUF {name}").into_bytes();
        mock.repo.lock().unwrap().files.insert(name.into(), RepoFile { content, large: true });
    }
    let get = |name: &str, options| resolve(name, &options, &mut |_| {}).map(|files| files.weights);
    let names = |weights: Weights| -> Vec<_> {
        let Weights::Gguf(paths) = weights else { panic!("{weights:?}") };
        paths.iter().map(|path| std::fs::read_to_string(path).unwrap().split_off("GGUF ".len())).collect()
    };
    let offline = || HubOptions { offline: true, ..mock.options() };
    for (variant, files) in [("Q8_0", &small[..1]), ("f16", &small[2..]), ("m-Q8_0.gguf", &small[..1])] {
        let name = format!("{ID}:{variant}");
        assert_eq!(names(get(&name, mock.options()).unwrap()), files, "{name}");
        assert_eq!(names(get(&name, offline()).unwrap()), files, "{name}");
    }
    // Safetensors go before, unless a type is named.
    assert!(matches!(get(ID, mock.options()).unwrap(), Weights::Single(_)));
    mock.repo.lock().unwrap().files.remove("model.safetensors");
    let fresh = tempfile::tempdir().unwrap();
    let options = || HubOptions { cache_dir: fresh.path().into(), ..mock.options() };
    assert_eq!(names(get(ID, options()).unwrap()), ["m-Q4_K_M.gguf"]);
    let message = get(&format!("{ID}:Q2_K"), options()).unwrap_err().to_string();
    assert!(message.contains("no GGUF file of it is Q2_K; there are F16, Q4_K_M, Q8_0"), "{message}");
    mock.repo.lock().unwrap().files.retain(|name, _| !name.contains(".gguf"));
    let message = get(&format!("{ID}:Q8_0"), options()).unwrap_err().to_string();
    assert!(message.contains("it holds no GGUF file"), "{message}");
}
