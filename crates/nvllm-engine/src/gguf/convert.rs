//! A GGUF model as the files of a Hugging Face repository, for whatever reads no GGUF.

use std::path::Path;

use nvllm_core::weight::Dequantized;
use nvllm_core::{DType, WeightSource};
use nvllm_gguf::Gguf;
use safetensors::tensor::Dtype;
use serde_json::Value;

use super::{sampling, vocabulary};
use crate::checkpoint::Checkpoint;
use crate::hub::{ModelFiles, Weights};
use crate::out_dir::{make_empty, write_json};
use crate::tensor_file::{Slot, TensorFile};
use crate::text::GgufVocabulary;
use crate::{EngineError, LoadProgress, Result};

/// Writes the GGUF model of `files` into the directory `out`, which is made and has to be empty.
/// Coded weights are expanded, in f32, and stored as `dtype`; others stay as they are. `progress`
/// is called with bytes of weights. Returns why there is no `tokenizer.json`, if the file has a
/// tokenizer that cannot be used.
///
/// What is not a matter of form stays behind: metadata that describe the file and change nothing.
///
/// # Errors
/// Those of [`Model::open`](crate::Model::open); [`EngineError::ModelName`] if it is no GGUF model;
/// [`EngineError::WriteFile`] if `out` holds files or cannot be written. What was written is
/// removed.
pub fn convert(
    files: &ModelFiles,
    out: &Path,
    dtype: DType,
    progress: &dyn Fn(LoadProgress),
) -> Result<Option<String>> {
    let Weights::Gguf(paths) = &files.weights else {
        let problem = "it is no GGUF file, and only those are converted".into();
        return Err(EngineError::ModelName { model: files.dir.display().to_string(), problem });
    };
    let (gguf, checkpoint) = super::checkpoint(&paths[0])?;
    let vocabulary = vocabulary::read(gguf.metadata())?;
    let (texts, unread_tokenizer) = json_files(&gguf, &checkpoint, vocabulary.as_ref(), dtype)?;
    make_empty(out)?;
    // The weights first: a directory that has config.json is whole.
    let written = write_weights(&out.join(WEIGHTS), &checkpoint, dtype, progress)
        .and_then(|()| texts.iter().try_for_each(|(file, value)| write_json(out, file, value)));
    if let Err(error) = written {
        for file in texts.iter().map(|(file, _)| *file).chain([WEIGHTS]) {
            let _ = std::fs::remove_file(out.join(file));
        }
        return Err(error);
    }
    Ok(unread_tokenizer)
}

const WEIGHTS: &str = "model.safetensors";

/// Files by their names, in the order in which they are written.
type JsonFiles = Vec<(&'static str, Value)>;

/// All files but the weights, config.json last; and why no tokenizer is among them, if it cannot be
/// used.
fn json_files(
    gguf: &Gguf,
    checkpoint: &Checkpoint,
    vocabulary: Option<&GgufVocabulary>,
    dtype: DType,
) -> Result<(JsonFiles, Option<String>)> {
    let mut config = checkpoint.config.clone().with("torch_dtype", name(stored(checkpoint, dtype)?));
    let ends = vocabulary.map(GgufVocabulary::end_token_ids).unwrap_or_default();
    let generation = sampling::generation_config(gguf.metadata(), &ends)?;
    let mut texts = vec![("generation_config.json", generation)];
    let mut unread = None;
    if let Some(vocabulary) = vocabulary {
        config = config.with("bos_token_id", vocabulary.begin_token_id()).with("eos_token_id", ends);
        match vocabulary.tokenizer_json(gguf.metadata().path()) {
            Ok(tokenizer) => {
                let mut config = vocabulary.tokenizer_config();
                // The class that takes tokenizer.json as it is.
                config["tokenizer_class"] = "PreTrainedTokenizerFast".into();
                texts.extend([("tokenizer.json", tokenizer), ("tokenizer_config.json", config)]);
            }
            Err(EngineError::Tokenizer { problem, .. }) => unread = Some(problem),
            Err(other) => return Err(other),
        }
    }
    texts.push(("config.json", config.to_json()));
    Ok((texts, unread))
}

/// The dtype of most of what is written: `dtype`, if any of it was coded, else the file's own.
fn stored(checkpoint: &Checkpoint, dtype: DType) -> Result<DType> {
    let mut parts = checkpoint.spec.weights.iter().flat_map(|weight| &weight.parts);
    let coded = parts
        .any(|part| checkpoint.source.info(&part.source).is_ok_and(|info| info.format.plain().is_none()));
    Ok(if coded { dtype } else { checkpoint.dtype()? })
}

const fn name(dtype: DType) -> &'static str {
    match dtype {
        DType::Bf16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    }
}

fn write_weights(
    path: &Path,
    checkpoint: &Checkpoint,
    dtype: DType,
    progress: &dyn Fn(LoadProgress),
) -> Result<()> {
    let source = Dequantized::new(&checkpoint.source as &dyn WeightSource, dtype);
    let names =
        checkpoint.spec.weights.iter().flat_map(|weight| &weight.parts).map(|part| part.source.clone());
    let slot = |name: String| {
        let info = source.info(&name)?;
        let dtype = match info.format.plain() {
            Some(DType::Bf16) => Dtype::BF16,
            Some(DType::F16) => Dtype::F16,
            _ => Dtype::F32,
        };
        Ok(Slot { name, dtype, shape: info.shape })
    };
    let slots = names.map(slot).collect::<nvllm_core::Result<Vec<_>>>()?;
    let names: Vec<_> = slots.iter().map(|slot| slot.name.clone()).collect();
    let mut read = LoadProgress { done: 0, total: slots.iter().map(Slot::bytes).sum() };
    let mut file = TensorFile::create(path, slots)?;
    for name in names {
        let tensor = source.tensor(&name)?;
        file.write(&name, &tensor.codes)?;
        read.done += tensor.codes.len();
        progress(read);
    }
    file.finish()
}
