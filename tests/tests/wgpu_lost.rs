//! A device that is lost while an engine serves on it: who waits is told why, and so is who comes
//! later.

use std::sync::Arc;

use nvllm_core::{Backend, TokenId};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{Engine, Event, FinishReason, Health, LoadOptions, Model, Request};
use nvllm_tests::model_dir;
use nvllm_wgpu::{WgpuBackend, WgpuOptions};

#[test]
fn requests_end_and_later_ones_are_refused() {
    // Not the device that tests share.
    let backend = match WgpuBackend::new(&WgpuOptions::default()) {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let model = Arc::new(Model::open(&ModelFiles::in_directory(&model_dir()).unwrap()).unwrap());
    let of_engine = backend.clone();
    let options = LoadOptions { max_model_len: Some(512), max_num_seqs: Some(2), ..LoadOptions::default() };
    let factory = move || Ok(Box::new(of_engine) as Box<dyn Backend>);
    let engine = Engine::builder(model, factory).options(options).start().unwrap();
    let request = |first: u32| Request {
        prompt: (0..20).map(|i| TokenId(first + i)).collect(),
        max_tokens: Some(400),
        ..Request::default()
    };
    let [running, waiting] = [10, 20].map(|first| engine.stream(request(first)).unwrap());
    let mut lost = false;
    for mut events in [running, waiting] {
        let end = events.find_map(|event| match event {
            Event::Token { .. } if !lost => {
                backend.destroy();
                lost = true;
                None
            }
            Event::Finished(finished) => Some(finished),
            _ => None,
        });
        let end = end.expect("an end");
        let error = end.error.as_deref().unwrap_or_default();
        assert_eq!(end.reason, FinishReason::Failed, "{error}");
        assert!(error.contains("the device is lost") && error.lines().count() == 1, "{error}");
    }
    let refused = engine.stream(request(30)).map(drop).unwrap_err().to_string();
    assert!(refused.contains("the device is lost"), "{refused}");
    assert!(matches!(engine.health(), Health::Failed(_)), "{:?}", engine.health());
}
