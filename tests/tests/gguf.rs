//! Models in GGUF files that the `gguf` package wrote: the same as the checkpoints they were made
//! from, and as the safetensors that they are converted into.

use std::path::PathBuf;

use nvllm_core::weight::Weight;
use nvllm_core::{Activations, DType, Reference};
use nvllm_engine::gguf::convert::convert;
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::text::{ChatInput, EncodeOptions};
use nvllm_engine::{LoadProgress, Model};
use nvllm_tests::{Fixture, Layout, Session, golden_dir};
use serde_json::json;

const FIXTURES: [&str; 5] =
    ["a_qwen3_tied_gqa", "h1_qwen3moe_norm", "i_llama_smollm2like", "j_qwen2_qkvbias", "k_mistral_window"];

fn path(name: &str) -> PathBuf {
    golden_dir().join(format!("gguf/{name}.gguf"))
}

fn open(name: &str) -> Model {
    Model::open(&ModelFiles::gguf(&path(name)).unwrap()).unwrap()
}

/// Every weight's values, under its name.
fn values(model: &Model) -> Vec<(String, Vec<f32>)> {
    let source = model.weights(Activations::F32);
    let value = |decl| Weight::load(decl, &source).unwrap().to_f32().unwrap();
    model.spec.weights.iter().map(|decl| (decl.name.clone(), value(decl))).collect()
}

/// Names, the order of rows under rotation, stacked experts, biases, windows.
#[test]
fn a_gguf_is_the_checkpoint_that_it_was_made_from() {
    for name in FIXTURES {
        let (gguf, fixture) = (open(name), Fixture::load(name));
        let original = Model::open(&ModelFiles::in_directory(&golden_dir().join(name)).unwrap()).unwrap();
        assert_eq!(gguf.architecture, original.architecture);
        assert_eq!(gguf.spec.kv, original.spec.kv, "{name}");
        assert_eq!(gguf.spec.max_positions, original.spec.max_positions);
        assert_eq!(gguf.spec.programs[0].to_string(), original.spec.programs[0].to_string());
        assert!(values(&gguf) == values(&original), "{name}: weights differ");
        assert!(gguf.eos.iter().any(|id| original.eos.contains(id)), "{name}: {:?}", gguf.eos);
        // What the program's text does not show, such as the base of the rotation.
        let sequence = &fixture.sequences[0];
        let source = gguf.weights(Activations::F32);
        let mut session =
            Session::new(&Reference::default(), &gguf.spec, &source, Activations::F32, Layout::default());
        let logits = session.logits(&sequence.input_ids, &sequence.position_ids);
        let off = logits.iter().zip(&sequence.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 1e-3, "{name}: logits off by {off}");
    }
}

#[test]
fn what_is_converted_opens_as_the_same_model() {
    for name in FIXTURES {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("new/model");
        let files = ModelFiles::gguf(&path(name)).unwrap();
        let done = std::cell::Cell::new(LoadProgress { done: 0, total: 1 });
        convert(&files, &out, DType::F32, &|progress| done.set(progress)).unwrap();
        assert_eq!(done.get().done, done.get().total);
        let (gguf, converted) = (open(name), Model::open(&ModelFiles::in_directory(&out).unwrap()).unwrap());
        assert!(values(&gguf) == values(&converted), "{name}: weights differ");
        assert_eq!(gguf.spec.programs[0].to_string(), converted.spec.programs[0].to_string());
        assert_eq!(gguf.spec.kv, converted.spec.kv);
        assert_eq!(
            (gguf.eos.clone(), converted.remarks.clone()),
            (converted.eos.clone(), gguf.remarks.clone())
        );
        for model in [&gguf, &converted] {
            let ids = model.tokenizer().unwrap().encode("Hi</s>", EncodeOptions::default()).unwrap();
            assert_eq!(ids, [39, 72, 319], "{name}");
            let input = ChatInput {
                messages: &[json!({"role": "user", "content": "Hi"})],
                tools: None,
                documents: None,
                add_generation_prompt: true,
                template: None,
                kwargs: None,
                now: None,
            };
            assert_eq!(model.chat_template().unwrap().render(&input).unwrap(), "user: Hi\n");
        }
        let again = convert(&files, &out, DType::F32, &|_| {}).unwrap_err().to_string();
        assert!(again.contains("the directory is not empty; give a new one"), "{again}");
    }
}

#[test]
fn only_gguf_is_converted() {
    let dir = tempfile::tempdir().unwrap();
    let files = ModelFiles::in_directory(&golden_dir().join(FIXTURES[0])).unwrap();
    let message = convert(&files, dir.path(), DType::F32, &|_| {}).unwrap_err().to_string();
    assert!(message.contains("it is no GGUF file"), "{message}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
