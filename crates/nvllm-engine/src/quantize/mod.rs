//! A model as a quantised checkpoint, for this engine and others.
//!
//! Tensors are made, laid out and written one at a time, into shards that are complete one after
//! the other. What a run that was ended has completed is kept, and a later run goes on from there
//! (`resume.rs`).

mod calibration;
mod layer;
mod method;
mod options;
mod plan;
mod resume;

pub use calibration::{Calibration, SeenLayer};
pub use layer::{Tensors, by_awq, by_gptq};
pub use method::{Method, Text};
pub use nvllm_quant::make::GptqOptions;
pub use options::QuantizeOptions;

use std::path::{Path, PathBuf};

use nvllm_core::{Backend, CanonicalTensor, CoreError, DType};
use nvllm_quant::make::{Layout, Output, Recipe};
use serde_json::Value;

use crate::hub::{ModelFiles, Weights};
use crate::out_dir::{failed, write_json};
use crate::tensor_file::TensorFile;
use crate::{EngineError, LoadProgress, Model, Result, checkpoint};
use method::Maker;
use plan::Plan;
use resume::Work;

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantized {
    /// Bytes of weights.
    pub bytes: usize,
    /// Bytes of them that an earlier run had made.
    pub kept: usize,
}

/// Writes the model of `files` into the directory `out`, which is new or empty, or holds what an
/// earlier run of the same kind has left. `backend` runs the calibration of methods that have one.
/// `progress` is called with bytes of the result; if it says false the run ends there, with `None`,
/// and complete files of weights are kept.
///
/// # Errors
/// Those of [`Model::open`] and [`Model::quantize`]; [`CoreError::UnsupportedCheckpoint`] for a
/// GGUF file; [`EngineError::WriteFile`] if `out` holds anything else or cannot be written;
/// [`CoreError::BadTensor`] if a tensor is not finite or does not go into the layout.
pub fn quantize(
    files: &ModelFiles,
    out: &Path,
    options: &QuantizeOptions,
    backend: Option<&dyn Backend>,
    progress: &dyn Fn(LoadProgress) -> bool,
) -> Result<Option<Quantized>> {
    if let Weights::Gguf(_) = files.weights {
        let problem = "is a GGUF file; make safetensors of it first (nvllm convert)".into();
        return Err(CoreError::UnsupportedCheckpoint { path: files.config.clone(), problem }.into());
    }
    let model = Model::open(files)?.dense()?;
    let layout = Layout::of(options.recipe.layers, options.double_quant);
    let plan = Plan::new(&model, &options.recipe, layout, options.max_shard_bytes)?;
    let config = config(files, &model, options, layout)?;
    let mut maker = Maker::new(&model, &options.recipe, &options.method, backend)?;
    let mut work = Work::begin(out, &plan, files, options)?;
    let mut make = |output: &Output| maker.make(output);
    let done = write(&plan, layout, dtype_name(model.dtype), &mut make, &mut work, progress);
    match done {
        Ok(Some(quantized)) => {
            finish(files, out, &plan, &config)?;
            work.end()?;
            Ok(Some(quantized))
        }
        Ok(None) => {
            work.leave();
            Ok(None)
        }
        Err(error) => {
            work.leave();
            Err(error)
        }
    }
}

/// The dtype that the model was saved in, as Hugging Face's files call it.
const fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::F32 => "float32",
        _ => "bfloat16",
    }
}

/// config.json of the result.
fn config(files: &ModelFiles, model: &Model, options: &QuantizeOptions, layout: Layout) -> Result<Value> {
    let Recipe { layers, head } = options.recipe;
    let (dense, dtype) = (options.recipe.dense_modules(&model.spec), dtype_name(model.dtype));
    let quantization = layout.config(layers, head, &dense, dtype)?;
    let (config, _) = checkpoint::read_config(&files.config, &files.dir)?;
    let config = config.with("quantization_config", quantization);
    // The head is a module of its own there.
    let config = if head.is_some() { config.with("tie_word_embeddings", false) } else { config };
    Ok(config.to_json())
}

/// Writes the shards that are not there yet; `None` if `progress` ended it.
fn write(
    plan: &Plan,
    layout: Layout,
    model_dtype: &str,
    make: &mut dyn FnMut(&Output) -> Result<CanonicalTensor>,
    work: &mut Work,
    progress: &dyn Fn(LoadProgress) -> bool,
) -> Result<Option<Quantized>> {
    let total = plan.bytes();
    let mut read = LoadProgress { done: 0, total };
    let mut kept = 0;
    for shard in &plan.shards {
        if work.has(shard)? {
            kept += shard.bytes;
            read.done += shard.bytes;
            continue;
        }
        let mut file = TensorFile::create(&work.path(shard), plan.slots(shard))?;
        for output in &plan.outputs[shard.outputs.clone()] {
            let tensor = make(output)?;
            let entries = layout.entries(&output.name, &tensor.info())?;
            let bytes = layout.bytes(&output.name, &tensor, model_dtype)?;
            for (entry, bytes) in entries.iter().zip(&bytes) {
                file.write(&entry.name, bytes)?;
                read.done += bytes.len();
            }
            if !progress(read) {
                return Ok(None);
            }
        }
        file.finish()?;
        work.complete(shard)?;
    }
    Ok(Some(Quantized { bytes: total, kept }))
}

/// Writes all but the weights, config.json last: a directory that has it is whole.
fn finish(files: &ModelFiles, out: &Path, plan: &Plan, config: &Value) -> Result<()> {
    for path in companions(&files.dir)? {
        let to = out.join(path.file_name().unwrap_or_default());
        std::fs::copy(&path, &to).map_err(|cause| failed(&to, &cause))?;
    }
    if plan.shards.len() > 1 {
        write_json(out, INDEX, &plan.index())?;
    }
    write_json(out, CONFIG, config)
}

const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";

/// The files beside the weights: tokenizer, templates, defaults, licence.
fn companions(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = |cause| EngineError::ReadFile { path: dir.to_path_buf(), cause };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = Path::new(&name).extension().unwrap_or_default().to_string_lossy().into_owned();
        let is_companion = matches!(&*kind, "json" | "jinja" | "txt" | "model" | "tiktoken")
            || name.starts_with("LICENSE")
            || name.starts_with("NOTICE");
        let is_replaced = name == CONFIG || name.ends_with(".index.json") || name.starts_with('.');
        if is_companion && !is_replaced && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
