//! Working from the cache, and caches that cannot be used.

use nvllm_engine::EngineError;
use nvllm_engine::hub::{HubOptions, resolve};

use crate::mock::{ID, MockHub};

#[test]
fn offline_needs_a_complete_snapshot() {
    let mock = MockHub::start();
    let offline = HubOptions { offline: true, ..mock.options() };
    let error = resolve(ID, &offline, &mut |_| {}).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, EngineError::NotCached { .. }), "{message}");
    assert!(
        message.starts_with("acme/tiny-1@main is not in the cache at ")
            && message.ends_with("run once with network access to fetch it"),
        "{message}"
    );

    let fetched = mock.resolve().unwrap();
    mock.hub.take_log();
    mock.cdn.take_log();
    assert_eq!(resolve(ID, &offline, &mut |_| {}).unwrap(), fetched);
    let commit = mock.repo.lock().unwrap().commit.clone();
    assert_eq!(resolve(&format!("{ID}@{commit}"), &offline, &mut |_| {}).unwrap().dir, fetched.dir);
    let message =
        resolve(&format!("{ID}@{}", "a".repeat(40)), &offline, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("config.json of commit aaaa"), "{message}");

    let reference = fetched.dir.join("../../refs/main");
    std::fs::write(&reference, "not a commit").unwrap();
    let message = resolve(ID, &offline, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("refs/main is damaged: it does not hold a commit"), "{message}");
    std::fs::write(&reference, &commit).unwrap();

    std::fs::remove_file(mock.blob("model.safetensors")).unwrap();
    let message = resolve(ID, &offline, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains(&format!("model.safetensors of commit {commit} is missing")), "{message}");
    assert!(mock.hub.take_log().is_empty() && mock.cdn.take_log().is_empty(), "offline means offline");
}

#[test]
fn without_network_the_last_snapshot_serves() {
    let mock = MockHub::start();
    let fetched = mock.resolve().unwrap();
    // A port that nothing listens on.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = HubOptions { endpoint: format!("http://{gone}"), ..mock.options() };
    let mut events = Vec::new();
    let files = resolve(ID, &options, &mut |event| events.push(format!("{event:?}"))).unwrap();
    assert_eq!(files, fetched);
    assert!(
        events.len() == 1 && events[0].starts_with("UsingCache") && events[0].contains(&gone.to_string()),
        "{events:?}"
    );

    let empty = tempfile::tempdir().unwrap();
    let options = HubOptions { cache_dir: empty.path().into(), ..options };
    let error = resolve(ID, &options, &mut |_| {}).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, EngineError::HubUnreachable { attempts: 3, .. }), "{message}");
    assert!(message.contains("onnection refused"), "{message}");
}

#[test]
fn a_cache_that_cannot_be_written() {
    let mock = MockHub::start();
    let file = mock.cache.path().join("file");
    std::fs::write(&file, "").unwrap();
    let options = HubOptions { cache_dir: file.join("hub"), ..mock.options() };
    let error = resolve(ID, &options, &mut |_| {}).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, EngineError::CacheUnwritable { .. }), "{message}");
    assert!(message.starts_with(&format!("cannot write the model cache at {}", file.display())), "{message}");
    assert!(message.ends_with("set HF_HOME to a directory that can be written"), "{message}");

    // A directory where a blob should be.
    std::fs::create_dir_all(format!("{}.incomplete", mock.blob("model.safetensors").display())).unwrap();
    let message = mock.resolve().unwrap_err().to_string();
    assert!(message.contains(".incomplete: "), "{message}");
}

/// Two processes (here: two threads, each with its own file descriptors) fetch each file once.
#[test]
fn downloads_at_the_same_time_share() {
    let mock = MockHub::start();
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| mock.resolve().unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(results.iter().all(|files| *files == results[0]));
    mock.check_content(&[&results[0].config, &results[0].weights.paths()[0]]);
    let targets: Vec<_> = mock.cdn.take_log().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets.len(), 2, "each large file once: {targets:?}");
}

#[test]
fn a_waiting_download_says_so() {
    let mock = MockHub::start();
    let etag = mock.repo.lock().unwrap().files["model.safetensors"].etag();
    let locks = mock.cache.path().join(".locks/models--acme--tiny-1");
    std::fs::create_dir_all(&locks).unwrap();
    let lock = std::fs::File::create(locks.join(format!("{etag}.lock"))).unwrap();
    lock.lock().unwrap();
    let mut lock = Some(lock);
    let mut waited = false;
    resolve(ID, &mock.options(), &mut |event| {
        if format!("{event:?}") == "Waiting { file: \"model.safetensors\" }" {
            waited = true;
            lock = None; // the other download ends
        }
    })
    .unwrap();
    assert!(waited);
}
