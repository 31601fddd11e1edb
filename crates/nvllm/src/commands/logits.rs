//! `nvllm logits`: what a user needs to compare a model with another implementation.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use nvllm_core::{Activations, TokenId};
use nvllm_engine::{Event, Finished, LoadOptions, Request};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::flags::ModelArgs;
use crate::out_file::OutFile;
use crate::output::note;
use crate::{backends, models};

/// Tokens of a step whose rows are all held at once, if nobody says otherwise.
const STEP_TOKENS: usize = 512;

#[derive(Args)]
pub(crate) struct Logits {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Token ids: a list (`1,2,3`), or a file of them (JSON, or separated by spaces or commas).
    #[arg(long, value_name = "LIST|FILE", value_parser = NonEmptyStringValueParser::new())]
    pub ids: String,
    /// Position ids, likewise; 0, 1, 2, .. if not given.
    #[arg(long, value_name = "LIST|FILE", value_parser = NonEmptyStringValueParser::new())]
    pub positions: Option<String>,
    /// The safetensors file to write: tensor `logits` [tokens, vocabulary], f32; `-` is standard
    /// output.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

pub(super) fn run(args: &Logits) -> Result<()> {
    let ids = numbers(&args.ids).context("--ids")?;
    let positions = args.positions.as_deref().map(numbers).transpose().context("--positions")?;
    let out = OutFile::check(&args.out)?;
    let options = backends::load_options(&args.model.load, Some(1));
    let step_tokens = options.max_num_batched_tokens.unwrap_or(STEP_TOKENS);
    let options = LoadOptions {
        max_num_batched_tokens: Some(step_tokens),
        max_num_logits: step_tokens,
        activations: options.activations.or(Some(Activations::F32)),
        ..options
    };
    let (engine, model) = models::start_with(&args.model, options)?;
    let (num_tokens, vocab_size) = (ids.len(), model.spec.vocab_size);
    let request = Request {
        prompt: ids.into_iter().map(TokenId).collect(),
        positions,
        max_tokens: Some(0),
        logits: true,
        ..Request::default()
    };
    let stream = engine.stream(request)?;
    let mut logits = Vec::with_capacity(num_tokens * vocab_size * size_of::<f32>());
    for event in stream {
        match event {
            Event::PromptRow { logits: Some(row), .. } => logits.extend_from_slice(row.bytes()),
            Event::Finished(Finished { error: Some(error), .. }) => bail!("the model failed: {error}"),
            _ => {}
        }
    }
    let head = safetensors_head(vec![num_tokens, vocab_size], logits.len())?;
    out.write(&[&head, &logits])?;
    note!("wrote logits [{num_tokens}, {vocab_size}] to {}", args.out.display());
    Ok(())
}

/// What a safetensors file with the one tensor `logits` of f32 has before its data, so that these
/// are not copied.
fn safetensors_head(shape: Vec<usize>, len: usize) -> Result<Vec<u8>> {
    let tensor = TensorInfo { dtype: Dtype::F32, shape, data_offsets: (0, len) };
    let mut header = serde_json::to_vec(&Metadata::new(None, vec![("logits".into(), tensor)])?)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes()[..], &header].concat())
}

/// Numbers from a list, or from a file of them.
fn numbers(text: &str) -> Result<Vec<u32>> {
    let is_list = text.chars().all(|c| c.is_ascii_digit() || c == ',' || c == ' ');
    let content = if is_list {
        text.to_owned()
    } else {
        std::fs::read_to_string(Path::new(text))
            .with_context(|| format!("{text} is neither a list of numbers nor a file"))?
    };
    let separator = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']');
    let words = content.split(separator).filter(|word| !word.is_empty());
    let numbers: Vec<u32> = words
        .map(|word| word.parse().with_context(|| format!("`{word}` is not a number from 0 to {}", u32::MAX)))
        .collect::<Result<_>>()?;
    if numbers.is_empty() {
        bail!("there are no numbers in it; give at least one");
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn lists_and_files_of_numbers() {
        assert_eq!(numbers("1, 2,3").unwrap(), [1, 2, 3]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[4, 5,\n6]").unwrap();
        assert_eq!(numbers(file.path().to_str().unwrap()).unwrap(), [4, 5, 6]);
        for bad in ["", "99999999999", "no/such/file"] {
            assert!(numbers(bad).is_err(), "{bad}");
        }
    }
}
