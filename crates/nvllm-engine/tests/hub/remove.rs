//! Removing from the cache: what goes, what stays, and that nothing outside is touched.

use std::fs::{create_dir_all, read_dir, write};
use std::path::{Path, PathBuf};

use nvllm_engine::hub::{HubOptions, remove, resolve};
use nvllm_engine::{EngineError, Result};

use crate::mock::{ID, MockHub};

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// What huggingface_hub's `scan_cache_dir` calls corrupted: a ref without its snapshot, a link
/// without its blob, a repository without snapshots.
fn check_consistent(cache: &Path) {
    for repo in read_dir(cache).unwrap().map(|entry| entry.unwrap().path()) {
        if !repo.file_name().unwrap().to_str().unwrap().starts_with("models--") {
            continue;
        }
        assert!(repo.join("snapshots").is_dir(), "{}", repo.display());
        for name in files_below(&repo.join("refs")) {
            let commit = std::fs::read_to_string(&name).unwrap();
            assert!(repo.join("snapshots").join(commit).is_dir(), "{}", name.display());
        }
        for file in files_below(&repo.join("snapshots")) {
            assert!(file.exists(), "{} leads nowhere", file.display());
        }
    }
}

fn refused(mock: &MockHub, name: &str) -> String {
    let before = files_below(mock.cache.path());
    let message = remove(name, &mock.options()).expect_err(name).to_string();
    assert_eq!(files_below(mock.cache.path()), before, "{message}");
    message
}

/// Two revisions that share all blobs but one; returns the older and the newer commit.
fn two_revisions(mock: &MockHub) -> Result<(String, String)> {
    mock.resolve()?;
    let older = mock.repo.lock().unwrap().commit.clone();
    let newer = "f".repeat(40);
    mock.repo.lock().unwrap().commit.clone_from(&newer);
    mock.repo.lock().unwrap().files.get_mut("generation_config.json").unwrap().content =
        b"{\"top_k\": 3}".to_vec();
    mock.resolve()?;
    resolve(&format!("{ID}@refs/pr/1"), &mock.options(), &mut |_| {})?;
    Ok((older, newer))
}

#[test]
fn a_repository_goes_with_everything_it_holds() {
    let mock = MockHub::start();
    let files = mock.resolve().unwrap();
    let size: u64 = files_below(&files.dir).iter().map(|path| path.metadata().unwrap().len()).sum();
    let repo = mock.cache.path().join("models--acme--tiny-1");
    write(repo.join("blobs/abc.incomplete"), [0; 100]).unwrap();
    let commit = mock.repo.lock().unwrap().commit.clone();
    let no_exist = repo.join(".no_exist").join(&commit);
    create_dir_all(&no_exist).unwrap();
    write(no_exist.join("added_tokens.json"), "").unwrap();
    let removed = remove(ID, &mock.options()).unwrap();
    assert_eq!((removed.id.as_str(), removed.whole, removed.commits), (ID, true, vec![commit.clone()]));
    assert_eq!(removed.bytes, size + 100 + 40, "files, what was unfinished, and the ref");
    assert!(!repo.exists());
    check_consistent(mock.cache.path());
    let message = refused(&mock, ID);
    assert!(message.contains("is not in the cache at") && message.contains("nvllm list"), "{message}");
    mock.resolve().unwrap();
}

#[test]
fn a_revision_goes_without_what_others_use() {
    let mock = MockHub::start();
    let (older, newer) = two_revisions(&mock).unwrap();
    let removed = remove(&format!("{ID}@{}", &older[..8]), &mock.options()).unwrap();
    assert_eq!((removed.whole, removed.commits, removed.bytes), (false, vec![older.clone()], 2), "`{{}}`");
    check_consistent(mock.cache.path());
    let offline = HubOptions { offline: true, ..mock.options() };
    let files = resolve(ID, &offline, &mut |_| {}).unwrap();
    mock.check_content(&[&files.weights.paths()[0], &files.generation_config.unwrap()]);

    // The other way round, and every ref that named it goes too.
    let mock = MockHub::start();
    two_revisions(&mock).unwrap();
    let removed = remove(&format!("{ID}@main"), &mock.options()).unwrap();
    assert_eq!((removed.whole, removed.commits, removed.bytes), (false, vec![newer], 12));
    check_consistent(mock.cache.path());
    let repo = mock.cache.path().join("models--acme--tiny-1");
    assert!(files_below(&repo.join("refs")).is_empty() && !repo.join("refs/refs").exists());
    let offline = HubOptions { offline: true, ..mock.options() };
    resolve(&format!("{ID}@{older}"), &offline, &mut |_| {}).unwrap();
    // The last revision takes the repository with it.
    assert!(remove(&format!("{ID}@{older}"), &mock.options()).unwrap().whole);
    assert!(!repo.exists());
}

#[test]
fn what_is_not_in_the_cache_is_refused() {
    let mock = MockHub::start();
    two_revisions(&mock).unwrap();
    for (name, words) in [
        ("acme/other", "is not in the cache at"),
        ("acme/tiny_1", "did you mean acme/tiny-1?"),
        ("acme/tiny-1@v9", "it has no revision `v9`; there are 01234567, main, refs/pr/1 (ffffffff)"),
        ("acme/tiny-1@0123", "it has no revision `0123`"),
        ("acme/tiny-1@", "cannot be a revision"),
        ("gpt2", "is not in the cache at"),
        ("../models--acme--tiny-1", "only models in the cache are removed"),
        ("/", "only models in the cache are removed"),
        ("..", "only models in the cache are removed"),
        ("", "only models in the cache are removed"),
        ("a b/c", "`a b` cannot be part of a hub id"),
        ("acme/tiny-1@../../x", "cannot be a revision"),
        ("https://example.com/acme/tiny-1", "only addresses of"),
    ] {
        let message = refused(&mock, name);
        assert!(message.contains(words), "{name}: {message}");
    }
    let message = refused(&mock, mock.cache.path().to_str().unwrap());
    assert!(message.contains("only models in the cache are removed"), "{message}");
    // By address, as it is fetched.
    assert!(remove(&format!("https://huggingface.co/{ID}"), &mock.options()).unwrap().whole);
}

#[test]
fn a_download_that_runs_is_left_alone() {
    let mock = MockHub::start();
    mock.resolve().unwrap();
    let locks = mock.cache.path().join(".locks/models--acme--tiny-1");
    let lock = std::fs::File::create(locks.join("some.lock")).unwrap();
    lock.lock().unwrap();
    let error = remove(ID, &mock.options()).unwrap_err();
    assert!(matches!(error, EngineError::CacheInUse { .. }), "{error}");
    drop(lock);
    remove(ID, &mock.options()).unwrap();
}

#[test]
#[cfg(unix)]
fn links_are_not_followed_out_of_the_cache() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    let treasure = outside.path().join("treasure");
    write(&treasure, "kept").unwrap();
    let kept = || assert_eq!(std::fs::read_to_string(&treasure).unwrap(), "kept");

    // A blob, a snapshot's file and a directory in a snapshot that lead out of it.
    let mock = MockHub::start();
    let files = mock.resolve().unwrap();
    let blob = mock.blob("model.safetensors");
    std::fs::remove_file(&blob).unwrap();
    symlink(&treasure, &blob).unwrap();
    symlink(&treasure, files.dir.join("added")).unwrap();
    symlink(outside.path(), files.dir.join("folder")).unwrap();
    mock.repo.lock().unwrap().commit = "f".repeat(40);
    mock.repo.lock().unwrap().files.remove("model.safetensors");
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(mock.cache.path().join("models--acme--tiny-1/snapshots").join("f".repeat(40)))
        .unwrap();
    drop(other);
    let commit = files.hub.unwrap().commit;
    assert!(!remove(&format!("{ID}@{commit}"), &mock.options()).unwrap().whole);
    assert!(!files.dir.exists() && !blob.is_symlink());
    kept();

    // A repository, and its parts, that are links themselves.
    let mock = MockHub::start();
    mock.resolve().unwrap();
    let repo = mock.cache.path().join("models--acme--tiny-1");
    for part in ["blobs", "snapshots", "refs", "."] {
        let path = if part == "." { repo.clone() } else { repo.join(part) };
        let moved = outside.path().join(format!("moved-{}", part.trim_matches('.')));
        std::fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        let before = files_below(outside.path());
        let message = remove(ID, &mock.options()).unwrap_err().to_string();
        assert!(message.contains("is a link, which is not followed here"), "{message}");
        assert_eq!(files_below(outside.path()), before);
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&moved, &path).unwrap();
    }
    remove(ID, &mock.options()).unwrap();
    kept();
}

/// huggingface_hub 2 keeps what several repositories hold once, under `blobs` of the cache.
#[test]
#[cfg(unix)]
fn a_shared_blob_goes_with_its_last_link() {
    use std::os::unix::fs::symlink;
    let mock = MockHub::start();
    mock.resolve().unwrap();
    let cache = mock.cache.path();
    let hash = "ab".repeat(32);
    let store = cache.join("blobs/ab");
    create_dir_all(&store).unwrap();
    write(cache.join("blobs/.huggingface-shared-blobs"), "1\n").unwrap();
    let shared = store.join(&hash);
    let blob = mock.blob("model.safetensors");
    std::fs::rename(&blob, &shared).unwrap();
    symlink(Path::new("../../blobs/ab").join(&hash), &blob).unwrap();
    let other = cache.join("models--acme--other");
    create_dir_all(other.join("blobs")).unwrap();
    let commit = "e".repeat(40);
    create_dir_all(other.join("snapshots").join(&commit)).unwrap();
    symlink(Path::new("../../blobs/ab").join(&hash), other.join("blobs/x")).unwrap();
    symlink("../../blobs/x", other.join("snapshots").join(&commit).join("model.safetensors")).unwrap();
    let line = blob.strip_prefix(cache).unwrap().display();
    let links = format!("{line}\nmodels--acme--other/blobs/x\nmodels--acme--gone/blobs/y\n");
    write(store.join(format!("{hash}.refs")), links).unwrap();

    let size = shared.metadata().unwrap().len();
    assert!(remove(ID, &mock.options()).unwrap().bytes < size, "the other repository still has it");
    assert!(shared.exists());
    check_consistent(cache);
    assert_eq!(remove("acme/other", &mock.options()).unwrap().bytes, size);
    assert!(!shared.exists() && !store.join(format!("{hash}.refs")).exists());
}
