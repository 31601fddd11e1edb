//! An exact head through scheduler and engine: every token and log-probability is that of the dense
//! head, whatever requests run together, and the plan counts what it takes.

use std::path::Path;
use std::sync::Arc;

use nvllm_core::{Activations, Backend, DType, ExactHeadCounts, Reference, SamplingParams, TokenId};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::verify::{VerifyOptions, verify};
use nvllm_engine::{Engine, EngineError, Format, Generated, LoadOptions, LoadPlan, Model, Recipe, Request};
use nvllm_tests::{golden_dir, model_dir};

fn open(dir: &Path) -> Arc<Model> {
    Arc::new(Model::open(&ModelFiles::in_directory(dir).unwrap()).unwrap())
}

fn options(activations: Activations) -> LoadOptions {
    LoadOptions {
        max_model_len: Some(128),
        max_num_seqs: Some(8),
        activations: Some(activations),
        exact_head: true,
        ..LoadOptions::default()
    }
}

fn start(model: &Arc<Model>, options: LoadOptions) -> Engine {
    let cpu = || Ok(Box::new(nvllm_tests::cpu()) as Box<dyn Backend>);
    Engine::builder(Arc::clone(model), cpu).options(options).start().unwrap()
}

/// Requests of every kind that looks at logits in its own way.
fn requests(vocab: u32) -> Vec<Request> {
    let greedy = SamplingParams::default;
    let stop = SamplingParams { stop_tokens: vec![TokenId(3)], min_tokens: 6, ..greedy() };
    let kinds = [
        Request::default(),
        Request { logprobs: Some(3), ..Request::default() },
        Request { sampling: SamplingParams { temperature: 0.9, seed: 4, ..greedy() }, ..Request::default() },
        Request { sampling: SamplingParams { repetition_penalty: 1.3, ..greedy() }, ..Request::default() },
        Request {
            sampling: SamplingParams { logit_bias: vec![(TokenId(7), 9.0)], ..greedy() },
            ..Request::default()
        },
        Request { sampling: stop, ..Request::default() },
        Request { allowed_tokens: Some((0..vocab / 2).map(TokenId).collect()), ..Request::default() },
        Request { prompt_logprobs: Some(1), ..Request::default() },
        Request { max_tokens: Some(5), ..Request::default() },
    ];
    let prompt = |i: u32| (0..4 + 5 * i).map(|t| TokenId((t * 37 + i * 101) % vocab)).collect();
    (0..)
        .zip(kinds)
        .map(|(i, kind)| Request { prompt: prompt(i), max_tokens: kind.max_tokens.or(Some(24)), ..kind })
        .collect()
}

/// What all requests give when they run together and the first of them alone, and what the head did
/// for that one.
fn run(model: &Arc<Model>, options: LoadOptions) -> (Vec<Generated>, ExactHeadCounts) {
    let engine = start(model, options);
    let vocab = model.spec.vocab_size as u32;
    let results = std::thread::scope(|scope| {
        let answer = |request| scope.spawn(|| engine.generate(request).unwrap());
        let answers: Vec<_> = requests(vocab).into_iter().map(answer).collect();
        answers.into_iter().map(|answer| answer.join().unwrap()).collect::<Vec<_>>()
    });
    let before = engine.stats().exact_head;
    let alone = engine.generate(requests(vocab).remove(0)).unwrap();
    let ExactHeadCounts { rows, candidates, dense_rows } = engine.stats().exact_head;
    let counts = ExactHeadCounts {
        rows: rows - before.rows,
        candidates: candidates - before.candidates,
        dense_rows: dense_rows - before.dense_rows,
    };
    (results.into_iter().chain([alone]).collect(), counts)
}

#[test]
fn a_batch_of_all_kinds_of_requests_gives_what_the_dense_head_gives() {
    let models =
        [model_dir(), golden_dir().join("b_qwen3_untied_sharded"), golden_dir().join("i_llama_smollm2like")];
    for dir in models {
        let model = open(&dir);
        for activations in [Activations::F32, Activations::Bf16] {
            let dense = LoadOptions { exact_head: false, ..options(activations) };
            let (expected, none) = run(&model, dense);
            assert_eq!(none, ExactHeadCounts::default());
            let (results, counts) = run(&model, options(activations));
            for (i, (a, b)) in results.iter().zip(&expected).enumerate() {
                let what = format!("{}, {activations:?}, request {i}", model.name);
                assert_eq!((&a.tokens, &a.text), (&b.tokens, &b.text), "{what}");
                assert_eq!((&a.logprobs, &a.prompt_logprobs), (&b.logprobs, &b.prompt_logprobs), "{what}");
            }
            let alone = expected.last().unwrap().tokens.len() as u64;
            assert_eq!(counts.rows + counts.dense_rows, alone, "{}: {counts:?}", model.name);
            eprintln!("{}, {activations:?}: {counts:?}", model.name);
        }
    }
}

#[test]
fn company_changes_nothing() {
    let factory = || Ok(Box::new(nvllm_tests::cpu()) as Box<dyn Backend>);
    let load = LoadOptions { exact_head: true, ..LoadOptions::default() };
    let options = VerifyOptions { load, quick: true, ..VerifyOptions::default() };
    let report = verify(&open(&model_dir()), &Arc::new(factory), &options, &mut |_| {}).unwrap();
    assert!(report.is_equal(), "{report}");
}

#[test]
fn the_plan_counts_the_copy() {
    let model = open(&model_dir());
    let plan = |options: &LoadOptions| LoadPlan::new(options, &model, &nvllm_tests::cpu()).unwrap().plan;
    let options = options(Activations::Bf16);
    let with = plan(&options);
    let without = plan(&LoadOptions { exact_head: false, ..options.clone() });
    let head = with.spec.weights.iter().find(|decl| decl.shape[0] == model.spec.vocab_size).unwrap();
    let copy = head.num_rows() * (head.num_cols().next_multiple_of(16) + 8);
    assert_eq!(with.memory.weights, without.memory.weights + copy);
    assert_eq!(start(&model, options).info().unwrap().memory.weights, with.memory.weights);
}

#[test]
fn what_has_no_exact_head_is_refused_before_it_is_loaded() {
    let options = options(Activations::Bf16);
    let message = |model: &Model, backend: &dyn Backend| -> String {
        let error: EngineError = LoadPlan::new(&options, model, backend).unwrap_err();
        error.to_string()
    };
    let refused = message(&open(&model_dir()), &Reference::default());
    assert!(refused.contains("--exact-head is given") && refused.contains("`cpu` has"), "{refused}");
    let recipe = Recipe { layers: Format::Int8, head: Some(Format::Int8Weights) };
    let model = Model::open(&ModelFiles::in_directory(&model_dir()).unwrap()).unwrap();
    assert_eq!(model.dtype, DType::Bf16);
    let refused = message(&model.quantize(&recipe).unwrap(), &nvllm_tests::cpu());
    assert!(refused.contains("--exact-head is for heads that are not quantised"), "{refused}");
    assert!(refused.contains("int8 channel"), "{refused}");
}
