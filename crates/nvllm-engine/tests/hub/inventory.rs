//! What is in the cache.

use nvllm_engine::hub::list;

use crate::mock::{Fault, ID, MockHub, fixture};

#[test]
fn a_cache_is_listed_with_what_can_be_run() {
    let mock = MockHub::with_model(&fixture("a_qwen3_tied_gqa"));
    assert!(list(mock.cache.path()).is_empty());
    assert!(list(&mock.cache.path().join("no such")).is_empty());
    let files = mock.resolve().unwrap();
    let commit = mock.repo.lock().unwrap().commit.clone();
    // Other programs' directories, and what is no model.
    for dir in ["datasets--acme--words", "models--..--x", ".locks/models--acme--none", "version"] {
        std::fs::create_dir_all(mock.cache.path().join(dir)).unwrap();
    }
    let models = list(mock.cache.path());
    let [model] = models.as_slice() else { panic!("{models:?}") };
    assert_eq!((model.id.as_str(), model.incomplete_bytes), (ID, 0));
    let [revision] = model.revisions.as_slice() else { panic!("{model:?}") };
    assert_eq!((&revision.commit, revision.refs.as_slice()), (&commit, &["main".to_owned()][..]));
    assert_eq!(revision.dir, files.dir);
    let size = std::fs::read_dir(&files.dir)
        .unwrap()
        .map(|e| e.unwrap().path().metadata().unwrap().len())
        .sum::<u64>();
    assert_eq!((model.bytes, revision.bytes), (size, size));
    assert_eq!(revision.architecture.as_ref().unwrap().as_ref().unwrap(), "Qwen3ForCausalLM");
}

#[test]
fn revisions_share_their_blobs_and_each_says_why_it_cannot_be_run() {
    let mock = MockHub::start();
    mock.resolve().unwrap();
    mock.repo.lock().unwrap().commit = "f".repeat(40);
    mock.repo.lock().unwrap().files.get_mut("generation_config.json").unwrap().content = b"{ } ".to_vec();
    mock.resolve().unwrap();
    let models = list(mock.cache.path());
    let [a, b] = models[0].revisions.as_slice() else { panic!("{models:?}") };
    assert_eq!((a.refs.len(), b.refs.as_slice()), (0, &["main".to_owned()][..]), "main has moved on");
    assert_eq!((b.bytes, models[0].bytes), (a.bytes + 2, b.bytes + 2), "the shared blobs count once");
    let problem = a.architecture.as_ref().unwrap().as_ref().unwrap_err().to_string();
    assert!(problem.contains("is not a complete safetensors file"), "{problem}");
}

#[test]
fn a_download_that_stopped_is_counted() {
    let mock = MockHub::start();
    mock.fault("CDN model.safetensors", Fault::CutAt(70_000));
    (0..2).for_each(|_| mock.fault("CDN model.safetensors", Fault::CutAt(0)));
    mock.resolve().unwrap_err();
    let models = list(mock.cache.path());
    assert_eq!(models[0].incomplete_bytes, 70_000);
    let problem = models[0].revisions[0].architecture.as_ref().unwrap().as_ref().unwrap_err().to_string();
    assert!(problem.contains("has no model.safetensors"), "{problem}");
}
