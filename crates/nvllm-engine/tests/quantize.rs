//! `quantize`: what is written, what a run that was ended leaves, and what calibration is for.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nvllm_core::weight::{Checkpoint as _, Dequantized, Safetensors};
use nvllm_core::{CanonicalTensor, DType, Reference, Result, TensorInfo, TokenId, WeightSource};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::quantize::{
    Calibration, GptqOptions, Method, QuantizeOptions, Quantized, SeenLayer, Tensors, by_awq, by_gptq,
    quantize,
};
use nvllm_engine::{Format, LoadProgress, Model, Recipe};
use serde_json::Value;

const INT4: Format = Format::Int4 { group_size: 32 };

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn files(name: &str) -> ModelFiles {
    ModelFiles::in_directory(&golden(name)).unwrap()
}

fn open(name: &str) -> Model {
    Model::open(&files(name)).unwrap()
}

fn options(layers: Format, head: Option<Format>) -> QuantizeOptions {
    QuantizeOptions {
        recipe: Recipe { layers, head },
        method: Method::Nearest,
        double_quant: false,
        max_shard_bytes: 1 << 30,
    }
}

fn made(name: &str, out: &Path, options: &QuantizeOptions) -> Quantized {
    quantize(&files(name), out, options, None, &|_| true).unwrap().unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// All files of a directory.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let one = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
    };
    std::fs::read_dir(dir).unwrap().map(one).collect()
}

#[test]
fn a_checkpoint_has_what_its_layout_says() {
    let dir = tempfile::tempdir().unwrap();
    for (at, (format, dtypes)) in [
        (Format::Int8, ["I8", "F32", "-"]),
        (Format::Fp8, ["F8_E4M3", "F32", "-"]),
        (INT4, ["-", "BF16", "I32"]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(format!("new/{at}"));
        let written = made("a_qwen3_tied_gqa", &out, &options(format, None));
        let tensors = Safetensors::open(&out).unwrap();
        let dtype = |end: &str| {
            let name = format!("model.layers.1.mlp.up_proj.weight{end}");
            tensors.raw(&name).map_or_else(|_| "-".to_owned(), |raw| raw.dtype)
        };
        assert_eq!([dtype(""), dtype("_scale"), dtype("_packed")], dtypes);
        let bytes: usize = tensors.names().iter().map(|name| tensors.raw(name).unwrap().bytes.len()).sum();
        assert_eq!(written, Quantized { bytes, kept: 0 });
        // Embeddings and norms are as they were; a tied head is no tensor.
        let original = Safetensors::open(&golden("a_qwen3_tied_gqa")).unwrap();
        for name in
            ["model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.q_norm.weight"]
        {
            assert_eq!(tensors.raw(name).unwrap(), original.raw(name).unwrap(), "{name}");
        }
        assert!(tensors.raw("lm_head.weight").is_err());
        let config = json(&out.join("config.json"));
        assert_eq!(config["quantization_config"]["ignore"], serde_json::json!(["lm_head"]));
        assert_eq!((&config["tie_word_embeddings"], &config["hidden_size"]), (&true.into(), &64.into()));
        assert!(out.join("generation_config.json").exists() && !out.join(".nvllm-quantize.json").exists());
    }
}

#[test]
fn a_quantised_head_is_a_tensor_beside_the_embeddings() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new");
    made("a_qwen3_tied_gqa", &out, &options(Format::Fp8, Some(Format::Int8Weights)));
    let tensors = Safetensors::open(&out).unwrap();
    assert_eq!(tensors.raw("model.embed_tokens.weight").unwrap().dtype, "BF16");
    assert_eq!(tensors.raw("lm_head.weight_packed").unwrap().shape, [320, 16]);
    let config = json(&out.join("config.json"));
    assert_eq!(config["tie_word_embeddings"], false);
    assert_eq!(config["quantization_config"]["format"], "mixed-precision");
}

/// What is written is read as what is made at load: formats, codes and scales. Where one table is
/// embeddings and head, at load both are quantised, and in a checkpoint the head alone.
#[test]
fn a_checkpoint_with_a_quantised_head_is_the_model_quantised_at_load() {
    let dir = tempfile::tempdir().unwrap();
    let content = |tensor: CanonicalTensor| (tensor.info(), tensor.codes, tensor.scales, tensor.offsets);
    for (at, (layers, head)) in [
        (Format::Int8, Format::Int8Weights),
        (Format::Int8, INT4),
        (INT4, Format::Int8Weights),
        (INT4, INT4),
        (Format::Fp8, Format::Int8Weights),
    ]
    .into_iter()
    .enumerate()
    {
        for name in ["a_qwen3_tied_gqa", "b_qwen3_untied_sharded"] {
            let out = dir.path().join(format!("{name}-{at}"));
            let options = options(layers, Some(head));
            made(name, &out, &options);
            let written = Model::open(&ModelFiles::in_directory(&out).unwrap()).unwrap();
            assert!(written.remarks.is_empty(), "{name}: {:?}", written.remarks);
            let at_load = open(name).quantize(&options.recipe).unwrap();
            let tied = !at_load.source.names().contains(&"lm_head.weight".to_owned());
            let mut num_coded = 0;
            for weight in written.source.names() {
                let read = content(written.source.tensor(&weight).unwrap());
                num_coded += usize::from(read.0.format.plain().is_none());
                let expected = match &*weight {
                    "model.embed_tokens.weight" if tied => open(name).source.tensor(&weight),
                    "lm_head.weight" if tied => at_load.source.tensor("model.embed_tokens.weight"),
                    _ => at_load.source.tensor(&weight),
                };
                let what = format!("{name}, {layers:?}, {head:?}: {weight}");
                assert!(read == content(expected.unwrap()), "{what}");
            }
            assert!(num_coded > 7, "{name}: {num_coded}");
        }
    }
}

/// Ends a run after `calls` outputs.
fn ended(out: &Path, options: &QuantizeOptions, calls: usize) {
    let left = Cell::new(calls);
    let progress = |_: LoadProgress| {
        left.set(left.get().saturating_sub(1));
        left.get() > 0
    };
    let done = quantize(&files("a_qwen3_tied_gqa"), out, options, None, &progress).unwrap();
    assert_eq!(done, None);
}

#[test]
fn a_run_that_was_ended_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = QuantizeOptions { max_shard_bytes: 30_000, ..options(INT4, None) };
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    let all = made("a_qwen3_tied_gqa", &whole, &options);
    let index = json(&whole.join("model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], all.bytes);
    assert!(contents(&whole).keys().filter(|name| name.ends_with(".safetensors")).count() > 2);

    ended(&out, &options, 12);
    let left = contents(&out);
    assert!(left.contains_key(".nvllm-quantize.json"), "{:?}", left.keys());
    assert!(left.keys().any(|name| name.ends_with(".safetensors")));
    assert!(!left.keys().any(|name| name.contains(".part")), "{:?}", left.keys());
    // What was changed since is made again; a half file of a killed run is in nobody's way.
    let first = left.keys().find(|name| name.ends_with(".safetensors")).unwrap();
    std::fs::write(out.join(first), "damaged").unwrap();
    std::fs::write(out.join(format!("{first}.part")), "half").unwrap();
    ended(&out, &options, 12);
    let on = made("a_qwen3_tied_gqa", &out, &options);
    assert!(on.kept > 0 && on.bytes == all.bytes, "{on:?}");
    assert!(contents(&out) == contents(&whole));
}

#[test]
fn a_run_that_completed_nothing_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    ended(&out, &options(INT4, None), 3);
    assert!(!out.exists());
    std::fs::create_dir(&out).unwrap();
    ended(&out, &options(INT4, None), 3);
    assert!(out.exists() && contents(&out).is_empty());
}

#[test]
fn what_lies_in_the_directory_is_nobodys_to_overwrite() {
    let dir = tempfile::tempdir().unwrap();
    let message = |out: &Path, options: &QuantizeOptions| {
        quantize(&files("a_qwen3_tied_gqa"), out, options, None, &|_| true).unwrap_err().to_string()
    };
    std::fs::write(dir.path().join("letter"), "dear").unwrap();
    let refused = message(dir.path(), &options(INT4, None));
    assert!(refused.contains("not empty") && refused.contains("letter"), "{refused}");

    let out = dir.path().join("out");
    let small = QuantizeOptions { max_shard_bytes: 30_000, ..options(INT4, None) };
    ended(&out, &small, 12);
    let before = contents(&out);
    let other = QuantizeOptions { recipe: Recipe { layers: Format::Int8, head: None }, ..small };
    let refused = message(&out, &other);
    assert!(refused.contains("unfinished"), "{refused}");
    assert!(contents(&out) == before);

    // A format that does not go into the layout is refused before anything is made.
    let out = dir.path().join("none");
    let refused = message(&out, &options(Format::Int4 { group_size: 128 }, None));
    assert!(refused.contains("128") && refused.contains("--group-size") && !out.exists(), "{refused}");
}

#[test]
fn a_quantised_model_is_not_quantised_again() {
    let recipe = Recipe { layers: INT4, head: None };
    let model = open("a_qwen3_tied_gqa").quantize(&recipe).unwrap();
    let message = model.quantize(&recipe).err().unwrap().to_string();
    assert!(message.contains("a_qwen3_tied_gqa") && message.contains("quantised already"), "{message}");
}

/// A text of as many tokens as fill two sequences.
fn text(model: &Model) -> Vec<TokenId> {
    let vocab = model.spec.vocab_size as u32;
    (0..300_u32).map(|i| TokenId((i * i * 31 + i * 7 + i / 5) % vocab)).collect()
}

/// The hidden states after each layer are those of the model itself.
#[test]
fn layer_by_layer_is_the_model() {
    for name in ["a_qwen3_tied_gqa", "o_llama_bias", "k_mistral_window"] {
        let (model, backend) = (open(name), Reference::default());
        let tokens: Vec<_> = text(&model).into_iter().take(100).collect();
        let mut calibration = Calibration::new(&model, &backend, &tokens).unwrap();
        let last = model.spec.kv.iter().map(|kv| kv.num_layers).sum::<usize>() - 1;
        let seen = calibration.advance(last).unwrap();
        assert!(!seen.inputs.is_empty());
        // The whole model as one part of itself, on the rows of its embeddings.
        let table = model.spec.weights[0].clone();
        let whole = model.spec.part("hidden.0", &format!("hidden.{}", last + 1), table);
        let mut whole = whole.unwrap();
        let label = format!("hidden.{}", last + 1);
        whole.keep(&label).unwrap();
        let expected = states(&model, &whole, model.source.as_ref(), &tokens, &label);
        assert!(calibration.states() == expected, "{name}");
    }
}

/// A labelled value of one sequence.
fn states(
    model: &Model,
    spec: &nvllm_core::ModelSpec,
    source: &dyn WeightSource,
    tokens: &[TokenId],
    label: &str,
) -> Vec<f32> {
    use nvllm_core::{Backend as _, BlockId, InlineVec, Limits, SlotId, SlotReset, Source, Step};
    let (len, columns) =
        (tokens.len(), 2 * spec.kv.iter().map(|kv| kv.num_heads * kv.head_dim).sum::<usize>());
    let activations = model.activations();
    let limits = Limits {
        block_len: len,
        kv_bytes: 2 * len * columns * activations.dtype().size(),
        ..Limits::new(activations, 1, len)
    };
    let mut spec = spec.clone();
    // Nothing else of the checkpoint is looked for.
    spec.unused_tensors = model.source.names();
    let mut exe = Reference::default().plan_and_load(&spec, source, &limits).unwrap();
    let reset = SlotReset {
        slot: SlotId(0),
        prompt: [].into(),
        output: [].into(),
        sampling: nvllm_core::SamplingParams::default().into(),
    };
    let seq = nvllm_core::SeqStep {
        slot: SlotId(0),
        tokens: tokens.iter().map(|&token| Source::Host(token)).collect(),
        positions: (0..len as u32).map(Source::Host).collect(),
        kv_start: Source::Host(0),
        block_tables: InlineVec::from_elem([BlockId(1)].into(), spec.kv.len()),
        outputs: InlineVec::new(),
    };
    let step = Step { resets: vec![reset], seqs: [seq].into_iter().collect(), ..Step::default() };
    let ticket = exe.submit(&step).unwrap();
    exe.collect(ticket).unwrap();
    exe.kept(label).unwrap().unwrap().to_f32()
}

/// A tensor's values.
fn values(name: &str, tensor: CanonicalTensor) -> Vec<f32> {
    let one = Over { made: [(name.to_owned(), tensor)].into(), rest: None };
    let dense = Dequantized::new(one, DType::F32).tensor(name).unwrap();
    let dtype = dense.format.plain().unwrap();
    (0..dense.num_rows() * dense.num_cols()).map(|at| dtype.read(&dense.codes, at)).collect()
}

/// Some tensors in the place of a model's.
struct Over<'a> {
    made: Tensors,
    rest: Option<&'a dyn WeightSource>,
}

impl WeightSource for Over<'_> {
    fn describe(&self) -> String {
        "over".into()
    }

    fn names(&self) -> Vec<String> {
        self.rest.map_or_else(Vec::new, WeightSource::names)
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        self.tensor(name).map(|tensor| tensor.info())
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        match (self.made.get(name), self.rest) {
            (Some(tensor), _) => Ok(tensor.clone()),
            (None, Some(rest)) => rest.tensor(name),
            (None, None) => unreachable!("{name}"),
        }
    }
}

/// The squared output errors of a layer's linear ops over all its inputs, by its weights' names.
fn errors(model: &Model, seen: &SeenLayer, made: &Tensors) -> BTreeMap<String, f64> {
    let mut errors = BTreeMap::new();
    for node in &seen.spec.programs[0].nodes {
        let nvllm_core::Op::Linear { weight, .. } = node.op else { continue };
        for part in &seen.spec.weights[weight.index()].parts {
            let original = values(&part.source, model.source.tensor(&part.source).unwrap());
            let now = values(&part.source, made[&part.source].clone());
            let off: Vec<_> = now.iter().zip(&original).map(|(now, original)| now - original).collect();
            errors.insert(part.source.clone(), seen.inputs[&node.inputs[0]].squared_error(&off));
        }
    }
    errors
}

#[test]
fn gptq_brings_a_layers_outputs_nearer() {
    for name in ["a_qwen3_tied_gqa", "o_llama_bias"] {
        let (model, backend) = (open(name), Reference::default());
        let mut calibration = Calibration::new(&model, &backend, &text(&model)).unwrap();
        let formats = Recipe { layers: INT4, head: None }.formats(&model.spec);
        let nearest = open(name).quantize(&Recipe { layers: INT4, head: None }).unwrap();
        for layer in 0..2 {
            let seen = calibration.advance(layer).unwrap();
            for act_order in [false, true] {
                let options = GptqOptions { act_order, ..GptqOptions::default() };
                let made = by_gptq(model.source.as_ref(), &seen, &formats, options).unwrap();
                let rounded = made.keys().map(|name| (name.clone(), nearest.source.tensor(name).unwrap()));
                let (near, made) = (errors(&model, &seen, &rounded.collect()), errors(&model, &seen, &made));
                assert_eq!(near.len(), 7);
                for (tensor, error) in made {
                    assert!(error < near[&tensor], "{name} {tensor}: {error} and {}", near[&tensor]);
                }
            }
        }
    }
}

/// Factors that went into the wrong place would change what the model computes far more than
/// rounding does.
#[test]
fn awq_changes_no_more_than_rounding_does() {
    for name in ["a_qwen3_tied_gqa", "l_llama2", "o_llama_bias"] {
        let (model, backend) = (open(name), Reference::default());
        let tokens = text(&model);
        let mut calibration = Calibration::new(&model, &backend, &tokens).unwrap();
        let recipe = Recipe { layers: INT4, head: None };
        let (formats, layers) = (recipe.formats(&model.spec), model.spec.kv[0].num_layers);
        let mut made = Tensors::new();
        for layer in 0..layers {
            let seen = calibration.advance(layer).unwrap();
            made.extend(by_awq(model.source.as_ref(), &seen, &formats).unwrap());
        }
        assert!(made.contains_key("model.layers.0.input_layernorm.weight"), "{name}");
        let rounded = model.spec.weights.iter().flat_map(|decl| &decl.parts).map(|part| part.source.clone());
        let nearest = open(name).quantize(&recipe).unwrap();
        let rounded = rounded.map(|name| (name.clone(), nearest.source.tensor(&name).unwrap())).collect();
        let label = format!("hidden.{layers}");
        let last = |made: Tensors| {
            let mut spec = model.spec.part("hidden.0", &label, model.spec.weights[0].clone()).unwrap();
            spec.keep(&label).unwrap();
            let source = Over { made, rest: Some(model.source.as_ref()) };
            states(&model, &spec, &source, &tokens[..100], &label)
        };
        let (original, awq, nearest) = (last(Tensors::new()), last(made), last(rounded));
        let off = |x: &[f32]| x.iter().zip(&original).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
        assert!(off(&awq) < 1.3 * off(&nearest), "{name}: {} and {}", off(&awq), off(&nearest));
    }
}
