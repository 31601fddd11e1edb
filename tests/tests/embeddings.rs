//! Embeddings against Hugging Face's hidden states, and against the program run by hand.

use std::sync::Arc;

use nvllm_core::{
    Activations, Backend, BlockId, ModelSpec, OutputRow, Reference, SeqStep, SlotId, SlotReset, Source, Step,
    TokenId,
};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{Engine, LoadOptions, Model, Request};
use nvllm_tests::{FIXTURES, Fixture, Layout, golden_dir, limits, model_dir};

fn engine(model: Model, backend: fn() -> Box<dyn Backend>, max_num_batched_tokens: usize) -> Engine {
    let options = LoadOptions {
        activations: Some(Activations::F32),
        max_model_len: Some(model.spec.max_positions.min(256)),
        max_num_batched_tokens: Some(max_num_batched_tokens),
        max_num_seqs: Some(2),
        embeddings: true,
        ..LoadOptions::default()
    };
    Engine::builder(Arc::new(model), move || Ok(backend())).options(options).start().unwrap()
}

/// The last row of the hidden states after the last norm, whole and in chunks.
fn check_fixtures(backend: fn() -> Box<dyn Backend>) {
    for (name, tolerance) in FIXTURES {
        let fixture = Fixture::load(name);
        let sequence = fixture.sequences.iter().find(|sequence| sequence.seq == 0).unwrap();
        let all = fixture.hidden.last().expect("hidden states");
        let expected = &all[all.len() - all.len() / sequence.input_ids.len()..];
        for chunk in [256, 7] {
            let model = Model::open(&ModelFiles::in_directory(&golden_dir().join(name)).unwrap()).unwrap();
            let request = Request {
                prompt: sequence.input_ids.clone(),
                positions: Some(sequence.position_ids.clone()),
                ..Request::default()
            };
            let values = engine(model, backend, chunk).embed(request).unwrap().values;
            assert_eq!(values.len(), expected.len(), "{name}");
            let off = values.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= tolerance, "{name}: off by {off}");
        }
    }
}

#[test]
fn reference_f32() {
    check_fixtures(|| Box::new(Reference::default()));
}

#[test]
fn cpu_f32() {
    check_fixtures(|| Box::new(nvllm_tests::cpu()));
}

#[test]
fn cuda_f32() {
    nvllm_tests::on_cuda(|_| check_fixtures(|| Box::new(nvllm_tests::cuda(true).expect("a GPU"))));
}

/// The program of hidden states, run without scheduler and engine in one step.
fn by_hand(backend: &dyn Backend, model: &Model, prompt: &[TokenId]) -> Vec<u32> {
    let spec = model.spec.with_entry(ModelSpec::HIDDEN).unwrap();
    let limits = limits(&spec, Activations::F32, &Layout::default());
    let mut exe = backend.plan_and_load(&spec, model.source.as_ref(), &limits).unwrap();
    let blocks = (1..=prompt.len().div_ceil(limits.block_len) as u32).map(BlockId).collect();
    let slot = SlotId(0);
    let seq = SeqStep {
        slot,
        tokens: prompt.iter().map(|token| Source::Host(*token)).collect(),
        positions: (0..prompt.len() as u32).map(Source::Host).collect(),
        kv_start: Source::Host(0),
        block_tables: [blocks].into_iter().collect(),
        outputs: [OutputRow::values(prompt.len() as u32 - 1)].into(),
    };
    let (entry, sampling) = (spec.entry(ModelSpec::HIDDEN).unwrap(), Arc::default());
    let reset = SlotReset { slot, prompt: prompt.into(), output: [].into(), sampling };
    let step = Step { entry, resets: vec![reset], seqs: vec![seq], ..Step::default() };
    let ticket = exe.submit(&step).unwrap();
    let row = exe.collect(ticket).unwrap().rows.remove(0).values.unwrap();
    row.to_host().unwrap().to_f32().iter().map(|x| x.to_bits()).collect()
}

fn check_by_hand(backend: fn() -> Box<dyn Backend>) {
    let model = || Model::open(&ModelFiles::in_directory(&model_dir()).unwrap()).unwrap();
    let prompt: Vec<_> = (0..100).map(|i| TokenId((i * 37 + 11) % 8000)).collect();
    let expected = by_hand(&*backend(), &model(), &prompt);
    for chunk in [128, 17] {
        let request = Request { prompt: prompt.clone(), ..Request::default() };
        let values = engine(model(), backend, chunk).embed(request).unwrap().values;
        assert!(values.iter().map(|x| x.to_bits()).eq(expected.iter().copied()), "chunks of {chunk}");
    }
}

#[test]
fn reference_by_hand() {
    check_by_hand(|| Box::new(Reference::default()));
}

#[test]
fn cpu_by_hand() {
    check_by_hand(|| Box::new(nvllm_tests::cpu()));
}

#[test]
fn cuda_by_hand() {
    nvllm_tests::on_cuda(|_| check_by_hand(|| Box::new(nvllm_tests::cuda(true).expect("a GPU"))));
}
