//! `nvllm convert`: a GGUF model as safetensors.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use nvllm_core::DType;
use nvllm_engine::LoadProgress;
use nvllm_engine::gguf::convert;
use nvllm_engine::hub::Weights;

use crate::human;
use crate::models;
use crate::output::{note, outln};
use crate::progress::Progress;
use crate::words::printable;

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm convert model-Q4_K_M.gguf model
  nvllm convert org/name:Q8_0 model --dtype f32")]
pub(crate) struct Convert {
    /// A GGUF file, or one of a hub's repository (org/name:TYPE).
    #[arg(value_name = "MODEL", value_parser = NonEmptyStringValueParser::new())]
    pub model: String,
    /// The directory to write, in Hugging Face's layout; it must be new or empty.
    #[arg(value_name = "DIR")]
    pub out: PathBuf,
    /// What quantised weights are stored as; others stay as they are. f32 loses nothing.
    #[arg(long, value_enum, default_value = "bf16")]
    pub dtype: Stored,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Stored {
    Bf16,
    F16,
    F32,
}

pub(super) fn run(args: &Convert) -> Result<()> {
    if models::is_built_in(&args.model) {
        bail!("{} is safetensors already", args.model);
    }
    let files = models::find(&args.model)?;
    if !matches!(files.weights, Weights::Gguf(_)) {
        bail!("{} is safetensors already; GGUF files are converted", args.model);
    }
    let dtype = match args.dtype {
        Stored::Bf16 => DType::Bf16,
        Stored::F16 => DType::F16,
        Stored::F32 => DType::F32,
    };
    let bar = Progress::new("writing");
    let written = std::cell::Cell::new(0);
    let converted = convert(&files, &args.out, dtype, &|LoadProgress { done, total }| {
        bar.set(done as u64, total as u64);
        written.set(total);
    });
    bar.end();
    let unread_tokenizer = converted?;
    if let Some(problem) = unread_tokenizer {
        note!("without tokenizer.json: {}", printable(&problem));
    }
    note!("wrote {} of weights", human::bytes(written.get()));
    outln!("{}", args.out.display())?;
    Ok(())
}
