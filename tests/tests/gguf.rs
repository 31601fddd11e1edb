//! Models in GGUF files that the `gguf` package wrote: the same as the checkpoints they were made
//! from, and as the safetensors that they are converted into.

use std::path::PathBuf;

use nvllm_core::weight::{Dequantized, Weight};
use nvllm_core::{Activations, DType, Reference};
use nvllm_engine::gguf::convert;
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::text::{ChatInput, EncodeOptions};
use nvllm_engine::{LoadProgress, Model};
use nvllm_tests::{Fixture, Layout, Session, golden_dir};
use serde_json::json;

const FIXTURES: [&str; 7] = [
    "a_qwen3_tied_gqa",
    "h1_qwen3moe_norm",
    "i_llama_smollm2like",
    "j_qwen2_qkvbias",
    "k_mistral_window",
    "l_llama2",
    "o_llama_bias",
];

/// The model's file, or the first of its files.
fn path(name: &str) -> PathBuf {
    let parts = if name == "l_llama2" { "-00001-of-00002" } else { "" };
    golden_dir().join(format!("gguf/{name}{parts}.gguf"))
}

fn open(name: &str) -> Model {
    Model::open(&ModelFiles::gguf(&path(name)).unwrap()).unwrap()
}

/// Every weight's values, under its name.
fn values(model: &Model) -> Vec<(String, Vec<f32>)> {
    let source = Dequantized::new(model.source.as_ref(), DType::F32);
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
        assert_eq!(gguf.eos, original.eos, "{name}");
        // What the program's text does not show, such as the base of the rotation.
        let sequence = &fixture.sequences[0];
        let source = Dequantized::new(gguf.source.as_ref(), DType::F32);
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
        let rights = |file: &str| std::fs::metadata(out.join(file)).unwrap().permissions();
        assert_eq!(rights("model.safetensors"), rights("config.json"));
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

/// Converters write generation_config.json into the metadata; what is converted back has it again.
#[test]
fn authors_sampling_comes_along() {
    let dir = tempfile::tempdir().unwrap();
    convert(&ModelFiles::gguf(&path(FIXTURES[0])).unwrap(), dir.path(), DType::F32, &|_| {}).unwrap();
    let converted = Model::open(&ModelFiles::in_directory(dir.path()).unwrap()).unwrap();
    for model in [open(FIXTURES[0]), converted] {
        let sampling = model.sampling();
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.8, 20, 0.95));
        assert_eq!((sampling.repetition_penalty, sampling.min_p), (1.05, 0.0));
        assert!(model.generation.remarks.is_empty(), "{:?}", model.generation.remarks);
    }
    let text = std::fs::read_to_string(dir.path().join("generation_config.json")).unwrap();
    assert!(text.contains("\"top_p\": 0.95") && text.contains("\"top_k\": 20,"), "{text}");
    let none = open(FIXTURES[1]).sampling();
    assert_eq!((none.temperature, none.top_k, none.top_p), (1.0, 0, 1.0));
}

#[test]
fn only_gguf_is_converted() {
    let dir = tempfile::tempdir().unwrap();
    let files = ModelFiles::in_directory(&golden_dir().join(FIXTURES[0])).unwrap();
    let message = convert(&files, dir.path(), DType::F32, &|_| {}).unwrap_err().to_string();
    assert!(message.contains("it is no GGUF file"), "{message}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A fixture's file with bytes replaced, each by as many, wherever they stand.
struct Patched {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Patched {
    fn new(name: &str, changes: &[(&[u8], &[u8])]) -> Self {
        let mut bytes = std::fs::read(path(name)).unwrap();
        for (from, to) in changes {
            assert_eq!(from.len(), to.len());
            let places: Vec<_> =
                (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
            assert!(!places.is_empty());
            places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("patched.gguf");
        std::fs::write(&path, bytes).unwrap();
        Self { _dir: dir, path }
    }

    fn files(&self) -> ModelFiles {
        ModelFiles::gguf(&self.path).unwrap()
    }

    fn open(&self) -> Model {
        Model::open(&self.files()).unwrap()
    }

    /// What opening, checking and converting it answer, which is the same; the file's name is cut
    /// off.
    fn refused(&self) -> String {
        let out = tempfile::tempdir().unwrap();
        let message = Model::open(&self.files()).err().expect("it is refused").to_string();
        assert_eq!(Model::check(&self.files()).unwrap_err().to_string(), message);
        assert_eq!(convert(&self.files(), out.path(), DType::F32, &|_| {}).unwrap_err().to_string(), message);
        assert!(!message.contains("config.json"), "{message}");
        let place = format!("{}: ", self.path.display());
        let rest = message.strip_prefix(&place).unwrap_or_else(|| panic!("{message}"));
        assert!(!rest.contains("patched.gguf"), "{message}");
        rest.to_owned()
    }
}

/// A model under another's name would compute without its norms.
#[test]
fn a_tensor_that_the_model_does_not_read_is_refused() {
    let message = Patched::new("a_qwen3_tied_gqa", &[(b"qwen3", b"llama")]).refused();
    let expected = "holds tensor `blk.0.attn_k_norm.weight`, which is not part of llama as it is supported";
    assert_eq!(message, expected);
}

#[test]
fn what_a_file_lacks_is_said_in_its_own_terms() {
    let refused = |from: &[u8], to: &[u8]| Patched::new("a_qwen3_tied_gqa", &[(from, to)]).refused();
    let message = refused(b"output_norm.weight", b"output_norm.wright");
    assert!(message.starts_with("holds tensor `output_norm.wright`, which is not part of"), "{message}");
    // Frequencies of the rotation are no weights.
    let message = refused(b"blk.0.attn_output.weight", b"blk.0.attn_rot_embd.none");
    let expected =
        "its model's tensor `model.layers.0.self_attn.o_proj.weight` (under GGUF's name for it) is missing";
    assert!(message.starts_with(expected), "{message}");
    let entry = |name: &str, value: u32| {
        [format!("qwen3.attention.{name}").as_bytes(), &4_u32.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let changes = ["key_length", "value_length"].map(|name| (entry(name, 16), entry(name, 12)));
    let changes: Vec<_> = changes.iter().map(|(from, to)| (&from[..], &to[..])).collect();
    let message = Patched::new("a_qwen3_tied_gqa", &changes).refused();
    let ffn =
        |value: u32| [&b"qwen3.feed_forward_length"[..], &4_u32.to_le_bytes(), &value.to_le_bytes()].concat();
    let shape = refused(&ffn(160), &ffn(8));
    assert!(shape.contains("where the configuration implies"), "{shape}");
    assert!(message.starts_with("its model's `head_dim` is 12; multiples of 8 are supported"), "{message}");
}

/// Words that are not known keep nobody from what needs none.
#[test]
fn a_tokenizer_that_cannot_be_used_is_missed_by_those_who_ask_for_it() {
    let patched = Patched::new("a_qwen3_tied_gqa", &[(b"qwen2", b"qwenX")]);
    let model = patched.open();
    assert_eq!(model.eos, open("a_qwen3_tied_gqa").eos);
    let place = patched.path.display().to_string();
    for message in [model.tokenizer().err().unwrap(), model.chat_template().err().unwrap()] {
        let message = message.to_string();
        assert!(message.starts_with(&format!("{place}: tokenizer.ggml.pre is \"qwenX\", and")), "{message}");
    }
    let out = tempfile::tempdir().unwrap();
    let problem = convert(&patched.files(), out.path(), DType::F32, &|_| {}).unwrap().unwrap();
    assert!(problem.starts_with("tokenizer.ggml.pre is \"qwenX\""), "{problem}");
    let converted = Model::open(&ModelFiles::in_directory(out.path()).unwrap()).unwrap();
    assert!(converted.tokenizer().is_err());
    assert_eq!(converted.eos, model.eos);
    let message = converted.tokenizer().err().unwrap().to_string();
    assert!(message.contains("has no tokenizer: text needs tokenizer.json"), "{message}");
}

/// -1, of a signed type, names no token.
#[test]
fn an_end_token_of_minus_one_is_none() {
    const KEY: &[u8] = b"tokenizer.ggml.eos_token_id";
    let entry = |kind: u32, id: u32| [KEY, &kind.to_le_bytes(), &id.to_le_bytes()].concat();
    let model = Patched::new("a_qwen3_tied_gqa", &[(&entry(4, 319), &entry(5, u32::MAX))]).open();
    assert_eq!(model.eos, []);
}

#[test]
fn config_json_names_the_dtype_of_what_was_not_quantised() {
    for (name, dtype) in [("l_llama2", "float16"), ("o_llama_bias", "bfloat16")] {
        let out = tempfile::tempdir().unwrap();
        convert(&ModelFiles::gguf(&path(name)).unwrap(), out.path(), DType::F32, &|_| {}).unwrap();
        let config = std::fs::read(out.path().join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["torch_dtype"], dtype, "{name}");
        assert_eq!((&config["bos_token_id"], &config["eos_token_id"]), (&json!(318), &json!([319])));
    }
}

/// What stands in the place of the weights makes the last step of writing them fail.
#[test]
fn a_conversion_that_fails_leaves_nothing_of_its_own() {
    let out = tempfile::tempdir().unwrap();
    let block = |_| drop(std::fs::create_dir_all(out.path().join("model.safetensors/x")));
    let files = ModelFiles::gguf(&path("a_qwen3_tied_gqa")).unwrap();
    let message = convert(&files, out.path(), DType::F32, &block).unwrap_err().to_string();
    assert!(message.starts_with("cannot write"), "{message}");
    let left: Vec<_> =
        std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["model.safetensors"]);
}
