//! What a model makes of a text, against what the engine says of the same tokens.

use std::sync::Arc;

use nvllm_core::{Activations, Reference, TokenId};
use nvllm_engine::eval::{Windows, evaluate};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{Engine, LoadOptions, Model, Request};
use nvllm_tests::golden_dir;

fn engine(name: &str) -> Engine {
    let files = ModelFiles::in_directory(&golden_dir().join(name)).unwrap();
    let model = Arc::new(Model::open(&files).unwrap());
    let options =
        LoadOptions { activations: Some(Activations::F32), max_num_logits: 64, ..LoadOptions::default() };
    Engine::builder(model, || Ok(Box::new(Reference::default()))).options(options).start().unwrap()
}

#[test]
fn a_model_is_as_near_to_itself_as_can_be() {
    let (model, itself) = (engine("a_qwen3_tied_gqa"), engine("a_qwen3_tied_gqa"));
    let ids: Vec<_> = (0..50).map(|i| TokenId(i * 37 % 320)).collect();
    let mut scored = Vec::new();
    let windows = Windows { len: 20, stride: 10 };
    let found =
        evaluate(&model, Some(&itself), &ids, windows, &mut |done, of| scored.push((done, of))).unwrap();
    let against = found.against.unwrap();
    assert_eq!((found.tokens, against.mean_kl, against.largest_kl, against.top1), (49, 0.0, 0.0, 1.0));
    assert_eq!((against.nll, scored), (found.nll, [(19, 49), (29, 49), (39, 49), (49, 49)].to_vec()));

    // One window: the likelihoods of the prompt's tokens.
    let windows = Windows { len: 64, stride: 32 };
    let whole = evaluate(&model, None, &ids, windows, &mut |_, _| {}).unwrap();
    let request =
        Request { prompt: ids, max_tokens: Some(0), prompt_logprobs: Some(0), ..Request::default() };
    let scores = model.generate(request).unwrap().prompt_logprobs;
    let nll = -scores.iter().map(|scores| f64::from(scores.logprob)).sum::<f64>() / 49.0;
    assert!(whole.against.is_none() && (whole.nll - nll).abs() < 1e-5, "{} {nll}", whole.nll);
    assert!((whole.nll - found.nll).abs() > 1e-4, "a window of 20 sees less than the whole text");
}

#[test]
fn another_model_is_farther_away_and_bad_windows_are_refused() {
    let (model, other) = (engine("a_qwen3_tied_gqa"), engine("d_qwen3_theta1e6_longpos"));
    let ids: Vec<_> = (0..30).map(|i| TokenId(i * 37 % 320)).collect();
    let windows = Windows { len: 16, stride: 8 };
    let found = evaluate(&model, Some(&other), &ids, windows, &mut |_, _| {}).unwrap();
    let against = found.against.unwrap();
    assert!(against.mean_kl > 1e-4 && against.largest_kl >= against.mean_kl && against.top1 < 1.0);
    for (len, stride, num) in [(1, 1, 30), (16, 0, 30), (16, 16, 30), (16, 8, 1)] {
        let refused = evaluate(&model, None, &ids[..num], Windows { len, stride }, &mut |_, _| {});
        assert!(refused.is_err(), "{len} {stride} {num}");
    }
}
