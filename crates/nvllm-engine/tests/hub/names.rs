//! What a user may call a model, and what is said of what they call one.

use std::path::Path;

use nvllm_engine::EngineError;
use nvllm_engine::hub::{HubOptions, Weights, resolve};

use crate::mock::{ID, MockHub};

/// The message for a name, which no request was made for.
fn refused(mock: &MockHub, name: &str) -> String {
    let error = resolve(name, &mock.options(), &mut |_| {}).expect_err(name);
    let message = error.to_string();
    assert!(matches!(error, EngineError::ModelName { .. }), "{message}");
    assert!(message.starts_with(&format!("`{name}` is not a model: ")), "{message}");
    assert!(mock.hub.take_log().is_empty(), "nothing of this concerns the hub: {message}");
    message
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

#[test]
fn directories() {
    let mock = MockHub::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let message = resolve(path, &mock.options(), &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("has no config.json"), "{message}");
    write(&dir.path().join("config.json"), "{}");
    write(&dir.path().join("model.safetensors"), "");
    for name in [path.to_owned(), format!("{path}/"), format!("{path}//")] {
        let files = resolve(&name, &mock.options(), &mut |_| {}).unwrap();
        assert_eq!((files.dir.as_path(), files.hub), (dir.path(), None));
    }
    assert!(mock.hub.take_log().is_empty());
}

#[test]
fn files_of_a_model_hint_at_its_directory() {
    let mock = MockHub::start();
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    write(&model.join("config.json"), "{}");
    write(&model.join("model.safetensors"), "");
    for file in ["config.json", "model.safetensors"] {
        let message = refused(&mock, model.join(file).to_str().unwrap());
        assert!(message.ends_with(&format!("give its directory: {}", model.display())), "{message}");
    }
    for (file, content, words) in [
        ("w.bin", "", "a file of pickled weights"),
        ("notes.txt", "hello", "it is a file, not a directory; give a directory that holds config.json"),
    ] {
        write(&dir.path().join(file), content);
        let message = refused(&mock, dir.path().join(file).to_str().unwrap());
        assert!(message.contains(words), "{message}");
    }
}

/// By its ending or by how it begins; the parts of one are found from any of them, and a directory
/// that holds nothing else means it.
#[test]
fn gguf_files_are_models() {
    let mock = MockHub::start();
    let dir = tempfile::tempdir().unwrap();
    let parts =
        ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"].map(|name| dir.path().join("a").join(name));
    let plain = dir.path().join("b/no-ending");
    for file in parts.iter().chain([&plain]) {
        write(file, "GGUF and more");
    }
    let found = |path: &Path| {
        let files = resolve(path.to_str().unwrap(), &mock.options(), &mut |_| {}).unwrap();
        assert!(matches!(files.weights, Weights::Gguf(_)) && files.hub.is_none());
        files.weights.paths().to_vec()
    };
    assert_eq!(found(&parts[0]), parts);
    assert_eq!(found(&parts[1]), parts);
    assert_eq!(found(&dir.path().join("a")), parts);
    assert_eq!(found(&plain), [plain]);
    write(&dir.path().join("a/y-Q8_0.gguf"), "GGUF");
    let several = resolve(dir.path().join("a").to_str().unwrap(), &mock.options(), &mut |_| {});
    let message = several.unwrap_err().to_string();
    let words = "has no single GGUF model: give the path of one of x-00001-of-00002.gguf, y-Q8_0.gguf";
    assert!(message.ends_with(words), "{message}");
    assert!(mock.hub.take_log().is_empty());
}

#[test]
fn paths_to_nothing_say_so() {
    let mock = MockHub::start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("Qwen3-0.6B")).unwrap();
    let below = |name: &str| dir.path().join(name).display().to_string();
    for (name, words) in [
        ("/no/such/directory".to_owned(), "there is no such directory (/no does not exist)".to_owned()),
        (below("qwen3-0.6b"), format!("did you mean {}?", below("Qwen3-0.6B"))),
        (below("Qwen3_0.6B"), format!("did you mean {}?", below("Qwen3-0.6B"))),
        (below("something/else"), format!("({} does not exist)", below("something"))),
        (below("something"), "there is no such directory; give a directory".into()),
        (below("x.gguf"), "there is no such file".into()),
        ("./no/such".into(), "there is no such directory".into()),
        ("../up".into(), "there is no such directory".into()),
        ("~/m".into(), "there is no such directory".into()),
        ("a/b/c".into(), "there is no such directory".into()),
        (
            "no-such-thing".into(),
            "there is no such directory, and a hub id has the form org/name; give".into(),
        ),
        ("qwen3:0.6b".into(), "the form org/name[:TYPE][@revision], as in Qwen/Qwen3-0.6B-GGUF:Q8_0".into()),
        ("a b/c".into(), "there is no such directory, and `a b` cannot be part of a hub id".into()),
        (String::new(), "it is empty; give a directory".into()),
    ] {
        let message = refused(&mock, &name);
        assert!(message.contains(&words), "{message}");
    }
}

#[test]
fn addresses_of_a_page_name_its_model() {
    let mock = MockHub::start();
    let commit = mock.repo.lock().unwrap().commit.clone();
    let hub = mock.hub.url();
    for (name, revision) in [
        (format!("{ID}/"), "main"),
        (format!("https://huggingface.co/{ID}"), "main"),
        (format!("hf.co/{ID}/tree/refs%2Fpr%2F1"), "refs/pr/1"),
        (format!("hf://{ID}@{commit}"), commit.as_str()),
        (format!("{hub}/{ID}?library=transformers"), "main"),
        (format!("{hub}/{ID}/tree/{commit}"), commit.as_str()),
    ] {
        let files = resolve(&name, &mock.options(), &mut |_| {}).expect(&name);
        let id = files.hub.unwrap().id;
        assert_eq!((id.repo().as_str(), id.revision()), (ID, revision), "{name}");
    }
    mock.hub.take_log();
    for (name, words) in [
        ("https://example.com/a/b".to_owned(), "only addresses of huggingface.co and 127.0.0.1:"),
        (format!("{hub}/datasets/a/b"), "an address under `datasets`"),
        (format!("{hub}/{ID}/blob/main/config.json"), "give the repository: acme/tiny-1@main"),
    ] {
        let message = refused(&mock, &name);
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_repository_that_is_not_there_hints_at_one_that_is() {
    let mock = MockHub::start();
    mock.resolve().unwrap();
    let offline = HubOptions { offline: true, ..mock.options() };
    for options in [mock.options(), offline.clone()] {
        let message = resolve("acme/tiny_1", &options, &mut |_| {}).unwrap_err().to_string();
        assert!(message.contains("; did you mean acme/tiny-1?"), "{message}");
    }
    let message = resolve("other/thing", &offline, &mut |_| {}).unwrap_err().to_string();
    assert!(!message.contains("did you mean"), "{message}");
    // The name alone.
    let message = resolve("tiny-1", &offline, &mut |_| {}).unwrap_err().to_string();
    assert!(message.ends_with("did you mean acme/tiny-1?"), "{message}");
}
