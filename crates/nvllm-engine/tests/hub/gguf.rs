//! Which GGUF file is meant, with and without the network, in a directory and by a page's address.

use std::path::Path;

use nvllm_engine::EngineError;
use nvllm_engine::hub::{HubOptions, ModelFiles, Weights, list, remove, resolve};

use crate::mock::{Fault, ID, MockHub, RepoFile, fixture};

/// A hub whose repository holds GGUF files of these names, beside what [`MockHub::start`] has.
fn with_gguf(names: &[&str]) -> MockHub {
    let mock = MockHub::start();
    for name in names {
        put(&mock, name, format!("GGUF {name}"));
    }
    mock
}

/// As [`with_gguf`], without safetensors.
fn only_gguf(names: &[&str]) -> MockHub {
    let mock = with_gguf(names);
    mock.repo.lock().unwrap().files.remove("model.safetensors");
    mock
}

fn put(mock: &MockHub, name: &str, content: impl Into<Vec<u8>>) {
    let file = RepoFile { content: content.into(), large: true };
    mock.repo.lock().unwrap().files.insert(name.into(), file);
}

fn offline(mock: &MockHub) -> HubOptions {
    HubOptions { offline: true, ..mock.options() }
}

/// Names of the weights' files below the snapshot, or the message.
fn found(name: &str, options: &HubOptions) -> String {
    match resolve(name, options, &mut |_| {}) {
        Ok(files) => {
            let names = files.weights.paths().iter().map(|path| path.strip_prefix(&files.dir).unwrap());
            names.map(|name| name.display().to_string()).collect::<Vec<_>>().join(" ")
        }
        Err(e) => e.to_string(),
    }
}

/// What happens to be cached decides nothing: a commit without a variant means what it means at the
/// hub.
#[test]
fn a_commit_means_the_same_whatever_is_cached() {
    for (mock, meant) in [
        (with_gguf(&["m-Q8_0.gguf", "m-Q4_K_M.gguf"]), "model.safetensors"),
        (only_gguf(&["m-Q8_0.gguf", "m-Q4_K_M.gguf"]), "m-Q4_K_M.gguf"),
        (only_gguf(&["m-Q8_0.gguf"]), "m-Q8_0.gguf"),
    ] {
        let commit = mock.repo.lock().unwrap().commit.clone();
        let exact = format!("{ID}:Q8_0@{commit}");
        assert_eq!(found(&exact, &mock.options()), "m-Q8_0.gguf");
        mock.hub.take_log();
        assert_eq!(found(&exact, &mock.options()), "m-Q8_0.gguf");
        assert!(mock.hub.take_log().is_empty(), "named exactly, it needs no request");
        assert_eq!(found(&format!("{ID}@{commit}"), &mock.options()), meant);
    }
}

#[test]
fn offline_the_file_is_the_one_that_was_named() {
    let mock = only_gguf(&["m-UD-Q4_K_XL.gguf", "m-Q4_K_XL.gguf", "m-Q8_0.gguf", "m-Q4_K_M.gguf"]);
    found(&format!("{ID}:UD-Q4_K_XL"), &mock.options());
    assert_eq!(found(&format!("{ID}:ud-q4_k_xl"), &offline(&mock)), "m-UD-Q4_K_XL.gguf");
    for (name, words) in [
        (format!("{ID}:Q4_K_XL"), "of its GGUF files only UD-Q4_K_XL is cached"),
        (ID.to_owned(), "of its GGUF files only UD-Q4_K_XL is cached: ask for it as in :UD-Q4_K_XL"),
    ] {
        let message = found(&name, &offline(&mock));
        assert!(message.contains("is not in the cache") && message.contains(words), "{message}");
    }
    found(&format!("{ID}:Q8_0"), &mock.options());
    let message = found(ID, &offline(&mock));
    assert!(message.contains("only Q8_0, UD-Q4_K_XL are cached"), "{message}");
    found(ID, &mock.options());
    assert_eq!(found(ID, &offline(&mock)), "m-Q4_K_M.gguf", "the default type is what is meant");
    // Safetensors are not what a type names.
    let mock = with_gguf(&["m-Q8_0.gguf"]);
    mock.resolve().unwrap();
    let message = found(&format!("{ID}:Q8_0"), &offline(&mock));
    assert!(message.contains("none of its GGUF files is cached"), "{message}");
}

/// The second part breaks off: what is there is not the model, and the next download goes on.
#[test]
fn parts_that_are_missing_are_fetched() {
    let parts = ["F16/m-F16-00001-of-00002.gguf", "F16/m-F16-00002-of-00002.gguf"];
    for name in [format!("{ID}:F16"), format!("{ID}:F16@{}", "0123456789abcdef0123456789abcdef01234567")] {
        let mock = only_gguf(&parts);
        for _ in 0..3 {
            mock.fault(&format!("CDN {}", parts[1]), Fault::CutAt(0));
        }
        resolve(&name, &mock.options(), &mut |_| {}).unwrap_err();
        let message = found(&name, &offline(&mock));
        assert!(message.contains("is not in the cache"), "{message}");
        assert_eq!(found(&name, &mock.options()), parts.join(" "));
        assert_eq!(found(&name, &offline(&mock)), parts.join(" "));
    }
    let mock = only_gguf(&parts[..1]);
    let message = found(&format!("{ID}:F16"), &mock.options());
    assert!(message.contains("it lacks F16/m-F16-00002-of-00002.gguf"), "{message}");
}

#[test]
fn a_file_may_lie_deep_in_a_repository() {
    let deep = "gguf/q8/m-Q8_0.gguf";
    let mock = only_gguf(&[deep, "gguf/q4/m-Q4_K_M.gguf"]);
    for name in [
        format!("{ID}:Q8_0"),
        format!("{ID}:{deep}"),
        format!("{}/{ID}/blob/main/{deep}", mock.hub.url()),
        format!("{}/{ID}/resolve/main/gguf%2Fq8/m%2DQ8_0.gguf?download=true", mock.hub.url()),
        format!("{}/{ID}?show_file_info=gguf%2Fq8%2Fm-Q8_0.gguf", mock.hub.url()),
    ] {
        assert_eq!(found(&name, &mock.options()), deep, "{name}");
        assert_eq!(found(&name, &offline(&mock)), deep, "{name}");
    }
    // Weights in a folder are not the repository's.
    put(&mock, "adapter/x.safetensors", "x");
    assert_eq!(found(&format!("{ID}@refs/pr/1"), &mock.options()), "gguf/q4/m-Q4_K_M.gguf");
}

/// What cannot be guessed is asked for, in a repository and in a directory.
#[test]
fn several_models_are_listed() {
    let models = ["llama-3-8b-Q4_K_M.gguf", "qwen2-7b-Q4_K_M.gguf"];
    let mock = only_gguf(&models);
    for name in [ID.to_owned(), format!("{ID}:Q4_K_M")] {
        let message = found(&name, &mock.options());
        assert!(models.iter().all(|model| message.contains(model)), "{message}");
    }
    assert_eq!(found(&format!("{ID}:{}", models[1]), &mock.options()), models[1]);
    let dir = tempfile::tempdir().unwrap();
    for name in models {
        std::fs::write(dir.path().join(name), "GGUF").unwrap();
    }
    std::fs::write(dir.path().join("llama-3-8b-mmproj-f16.gguf"), "GGUF").unwrap();
    let message = found(dir.path().to_str().unwrap(), &mock.options());
    assert!(models.iter().all(|model| message.contains(model)) && !message.contains("mmproj"), "{message}");
    std::fs::remove_file(dir.path().join(models[0])).unwrap();
    assert_eq!(found(dir.path().to_str().unwrap(), &mock.options()), models[1]);
}

fn gguf(path: &Path) -> Vec<std::path::PathBuf> {
    let Weights::Gguf(paths) = ModelFiles::gguf(path).unwrap().weights else { panic!() };
    paths
}

#[test]
fn a_path_is_opened_as_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let parts = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"].map(path);
    let whole = ["a.gguf", "A.gguf", "mmproj-a.gguf"].map(path);
    for file in parts.iter().chain(&whole) {
        std::fs::write(file, "GGUF").unwrap();
    }
    for file in &whole {
        assert_eq!(gguf(file), std::slice::from_ref(file));
    }
    assert_eq!(gguf(&parts[1]), parts);
    std::fs::remove_file(&parts[1]).unwrap();
    let message = ModelFiles::gguf(&parts[0]).unwrap_err().to_string();
    assert!(message.contains("a-00002-of-00002.gguf") && message.contains("2 files"), "{message}");
}

#[test]
#[cfg(unix)]
fn a_directory_need_not_be_listed() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.gguf");
    std::fs::write(&file, "GGUF").unwrap();
    let mode = |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o100);
    let listed = std::fs::read_dir(dir.path()).is_ok();
    let files = ModelFiles::gguf(&file);
    mode(0o700);
    assert_eq!(files.unwrap().weights.paths(), [file]);
    if listed {
        eprintln!("skipped in part: this user may list any directory");
    }
}

/// The header comes first, and of a model that cannot be run nothing more.
#[test]
fn an_architecture_that_cannot_be_run_is_refused_before_its_weights_come() {
    let mut content = b"GGUF\x03\0\0\0".to_vec();
    content.extend([0_u64, 1].iter().flat_map(|count| count.to_le_bytes()));
    for text in ["general.architecture", "gpt2"] {
        content.extend((text.len() as u64).to_le_bytes());
        content.extend(text.as_bytes());
        if text.starts_with("general") {
            content.extend(8_u32.to_le_bytes());
        }
    }
    content.resize(20 << 20, 0);
    let mock = only_gguf(&[]);
    put(&mock, "m-Q8_0.gguf", content);
    let mut done = 0;
    let files = resolve(ID, &mock.options(), &mut |event| {
        if let nvllm_engine::hub::HubEvent::Progress { done: n, .. } = event {
            done = done.max(n);
        }
    });
    let message = files.unwrap_err().to_string();
    assert!(message.contains("architecture \"gpt2\"") && message.contains("m-Q8_0.gguf"), "{message}");
    assert_eq!(done, 0);
    assert!(!mock.blob("m-Q8_0.gguf").exists());
}

#[test]
fn removing_one_variant_is_refused() {
    let mock = only_gguf(&["m-Q8_0.gguf", "m-Q4_K_M.gguf"]);
    found(ID, &mock.options());
    found(&format!("{ID}:Q8_0"), &mock.options());
    let page = format!("{}/{ID}/blob/main/m-Q8_0.gguf", mock.hub.url());
    for name in [format!("{ID}:Q8_0"), format!("{ID}:Q8_0@main"), page] {
        let error = remove(&name, &mock.options()).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, EngineError::ModelName { .. }), "{message}");
        assert!(message.contains(&format!("give {ID} to remove all of it")), "{message}");
    }
    assert_eq!(found(&format!("{ID}:Q8_0"), &offline(&mock)), "m-Q8_0.gguf");
}

#[test]
fn each_cached_variant_is_listed() {
    let model = std::fs::read(fixture("gguf").join("a_qwen3_tied_gqa.gguf")).unwrap();
    let mock = only_gguf(&["x/m-Q8_0.gguf"]);
    put(&mock, "m-Q4_K_M.gguf", model.clone());
    for variant in ["Q8_0", "Q4_K_M"] {
        found(&format!("{ID}:{variant}"), &mock.options());
    }
    let models = list(mock.cache.path());
    let revision = &models[0].revisions[0];
    let [a, b] = revision.variants.as_slice() else { panic!("{revision:?}") };
    assert_eq!((a.name.as_str(), a.file.as_str(), a.bytes), ("Q4_K_M", "m-Q4_K_M.gguf", model.len() as u64));
    assert_eq!(a.architecture.as_ref().unwrap(), "Qwen3ForCausalLM");
    assert_eq!((b.name.as_str(), b.file.as_str(), b.bytes), ("Q8_0", "x/m-Q8_0.gguf", 18));
    assert!(b.architecture.is_err() && revision.architecture.is_none());
    assert_eq!(revision.bytes, a.bytes + b.bytes);

    // Safetensors beside them are the model that has no variant.
    let mock = with_gguf(&["m-Q8_0.gguf"]);
    mock.resolve().unwrap();
    found(&format!("{ID}:Q8_0"), &mock.options());
    let models = list(mock.cache.path());
    let revision = &models[0].revisions[0];
    assert_eq!((revision.variants.len(), revision.architecture.is_some()), (1, true));
}
