//! A model in a GGUF file, which is config, weights, tokenizer and chat template in one.

use std::path::Path;
use std::sync::Arc;

use nvllm_core::HfConfig;
use nvllm_gguf::{Gguf, Metadata};

use crate::checkpoint::Checkpoint;
use crate::end_tokens::end_tokens;
use crate::hub::ModelFiles;
use crate::text::{ChatTemplate, GenerationConfig, GgufVocabulary};
use crate::{Model, Result, registry};

/// Opens the file and the other parts of it. The metadata are read, of the weights their headers.
pub(crate) fn open(files: &ModelFiles) -> Result<Model> {
    let path = &files.weights.paths()[0];
    let gguf = Gguf::open(path)?;
    let config = gguf.config()?;
    let spec = (registry::family(&config)?.build)(&config)?;
    let checkpoint = Checkpoint::new(config, spec, gguf.weights()?)?;
    let dtype = checkpoint.dtype()?;
    let Checkpoint { config, spec, source, remarks } = checkpoint;
    let vocabulary = vocabulary(gguf.metadata())?;
    let tokenizer = vocabulary.as_ref().map(|vocabulary| vocabulary.tokenizer(path)).transpose()?;
    let tokenizer_config = vocabulary.as_ref().map(|v| v.tokenizer_config().to_string()).unwrap_or_default();
    let chat_template = match &vocabulary {
        Some(_) => ChatTemplate::from_parts(None, Some((tokenizer_config.as_bytes(), path)))?,
        None => None,
    };
    let generation = GenerationConfig {
        eos_token_ids: vocabulary.as_ref().map(GgufVocabulary::end_token_ids).unwrap_or_default(),
        ..GenerationConfig::default()
    };
    let generation = generation.within_vocabulary(spec.vocab_size, path);
    let named = tokenizer.as_ref().map(|tokenizer| (tokenizer, tokenizer_config.as_bytes()));
    Ok(Model {
        name: path.display().to_string(),
        architecture: config.architecture()?,
        dtype,
        remarks,
        eos: end_tokens(&generation, &config, named, spec.vocab_size),
        spec,
        tokenizer: tokenizer.map(Arc::new),
        unread_tokenizer: None,
        chat_template,
        generation,
        source: Box::new(source),
    })
}

/// The config that a GGUF file describes, if there is a model of it.
pub(crate) fn check(path: &Path) -> Result<HfConfig> {
    let config = Gguf::open(path)?.config()?;
    (registry::family(&config)?.build)(&config)?;
    Ok(config)
}

/// What the metadata say of the tokenizer; none, if there is none.
fn vocabulary(metadata: &Metadata) -> Result<Option<GgufVocabulary>> {
    let ggml = |key: &str| format!("tokenizer.ggml.{key}");
    let Some(model) = metadata.str_opt(&ggml("model"))? else { return Ok(None) };
    let strings = |key: &str| -> Result<Vec<String>> {
        Ok(metadata.strings(&ggml(key))?.into_iter().map(String::from).collect())
    };
    // What is no id (-1 in some files) names nothing.
    let id = |key: &str| -> Option<u32> { u32::try_from(metadata.u64_opt(&ggml(key)).ok()??).ok() };
    const NAMED: &str = "tokenizer.chat_template.";
    let template = |key: &str| -> Result<Option<(String, String)>> {
        let Some(name) = key.strip_prefix(NAMED) else { return Ok(None) };
        Ok(metadata.str_opt(key)?.map(|text| (name.to_owned(), text.to_owned())))
    };
    Ok(Some(GgufVocabulary {
        model: model.to_owned(),
        pre: metadata.str_opt(&ggml("pre"))?.map(String::from),
        tokens: strings("tokens")?,
        scores: metadata.f32s(&ggml("scores"))?,
        token_types: metadata.i32s(&ggml("token_type"))?,
        merges: strings("merges")?,
        bos_token_id: id("bos_token_id"),
        eos_token_id: id("eos_token_id"),
        eot_token_id: id("eot_token_id"),
        eom_token_id: id("eom_token_id"),
        unknown_token_id: id("unknown_token_id"),
        separator_token_id: id("seperator_token_id"),
        padding_token_id: id("padding_token_id"),
        mask_token_id: id("mask_token_id"),
        add_bos_token: metadata.bool_opt(&ggml("add_bos_token"))?,
        add_eos_token: metadata.bool_opt(&ggml("add_eos_token"))?,
        add_space_prefix: metadata.bool_opt(&ggml("add_space_prefix"))?,
        chat_template: metadata.str_opt("tokenizer.chat_template")?.map(String::from),
        named_chat_templates: metadata
            .keys()
            .filter_map(|key| template(key).transpose())
            .collect::<Result<_>>()?,
    }))
}
