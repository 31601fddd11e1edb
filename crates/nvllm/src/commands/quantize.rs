//! `nvllm quantize`: a model as a quantised checkpoint.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use nvllm_engine::quantize::{GptqOptions, Method, QuantizeOptions, Text, quantize};
use nvllm_engine::{LoadProgress, Recipe};

use crate::flags::{DeviceArgs, HeadFormatName, WeightFormatName, group_sizes, number};
use crate::human;
use crate::interrupt::{Interrupted, Listener};
use crate::output::{note, outln};
use crate::progress::Progress;
use crate::words::UsageError;
use crate::{backends, models};

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm quantize Qwen/Qwen3-0.6B --format int8 -o qwen3-int8
  nvllm quantize model --format int4 --group-size 64 --head int8 -o model-int4
  nvllm quantize model --format int4 --method gptq --calibration book.txt -o model-gptq

int8, int4 and fp8 are written in the layout of compressed-tensors, which transformers and vLLM load;
nf4 in that of bitsandbytes. A run that was ended goes on if it is started again.")]
pub(crate) struct Quantize {
    /// A directory in Hugging Face's layout, or a hub id (org/name, also with @revision).
    #[arg(value_name = "MODEL", value_parser = NonEmptyStringValueParser::new())]
    pub model: String,
    /// What linear layers become; embeddings, norms and routers stay as they are.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: WeightFormatName,
    /// Columns that share a scale in int4; it has to divide every layer's columns.
    #[arg(long, value_name = "N", default_value = "128", value_parser = group_sizes())]
    pub group_size: usize,
    /// What the head becomes, which stays as it is if not given. It is then a tensor of its own
    /// beside the embeddings. transformers and nvLLM load that; whether others do depends on them.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub head: Option<HeadFormatName>,
    /// Quantise the scales of nf4 too: smaller by 0.37 bits a weight, and a little less exact.
    #[arg(long)]
    pub double_quant: bool,
    /// How weights are rounded: int4 gets nearer to the original with a calibration text.
    #[arg(long, value_enum, default_value = "rtn")]
    pub method: MethodName,
    /// A text like those that the model is for, as UTF-8, of some hundred pages; not one that the
    /// result is evaluated on.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Tokens of the calibration text that are run, at most.
    #[arg(long, value_name = "N", default_value = "65536", value_parser = number::positive)]
    pub calibration_tokens: usize,
    /// With gptq: round the columns of the largest inputs first.
    #[arg(long)]
    pub act_order: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Bytes of one file of weights; after an interruption the complete ones are kept.
    #[arg(long, value_name = "BYTES", default_value = "2GiB", value_parser = number::bytes)]
    pub max_shard_size: usize,
    /// The directory to write; it must be new, empty, or left by such a run.
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MethodName {
    /// Each weight to the nearest value.
    Rtn,
    /// Columns make up for the errors of those before them.
    Gptq,
    /// Columns of large inputs are made larger first.
    Awq,
}

/// The method that the flags ask for.
fn method(args: &Quantize) -> Result<Method> {
    let calibrated = args.method != MethodName::Rtn;
    match &args.calibration {
        _ if args.act_order && args.method != MethodName::Gptq => {
            Err(UsageError("--act-order is for --method gptq").into())
        }
        Some(_) if !calibrated => Err(UsageError("--calibration is for --method gptq and awq").into()),
        _ if !calibrated => Ok(Method::Nearest),
        _ if args.format != WeightFormatName::Int4 => {
            Err(UsageError("--method gptq and awq are for --format int4: 8 bits need none").into())
        }
        None => Err(UsageError("--method gptq and awq need a text: give --calibration").into()),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("--calibration {}: cannot read it as text", path.display()))?;
            let text = Text { text, max_tokens: args.calibration_tokens };
            Ok(match args.method {
                MethodName::Awq => Method::Awq(text),
                _ => Method::Gptq(text, GptqOptions { act_order: args.act_order, ..GptqOptions::default() }),
            })
        }
    }
}

pub(super) fn run(args: &Quantize) -> Result<()> {
    if models::is_built_in(&args.model) {
        bail!("{} is part of this program: give a directory or a hub id", args.model);
    }
    let is_nf4 = args.format == WeightFormatName::Nf4;
    if is_nf4 && args.head.is_some() {
        return Err(UsageError("--head is not for nf4: bitsandbytes has one format for all layers").into());
    }
    if args.double_quant && !is_nf4 {
        return Err(UsageError("--double-quant is for nf4").into());
    }
    let method = method(args)?;
    let files = models::find(&args.model)?;
    let recipe = Recipe {
        layers: args.format.of_layers(args.group_size),
        head: args.head.map(|head| head.of_head(args.group_size)),
    };
    let backend = match method {
        Method::Nearest => None,
        Method::Gptq(..) | Method::Awq(_) => Some(backends::factory(&args.device)()?),
    };
    let options = QuantizeOptions {
        recipe,
        method,
        double_quant: args.double_quant,
        max_shard_bytes: args.max_shard_size,
    };
    let (bar, listener) = (Progress::new("quantising"), Listener::start());
    let made = quantize(&files, &args.out, &options, backend.as_deref(), &|LoadProgress { done, total }| {
        bar.set(done as u64, total as u64);
        !listener.is_pressed()
    });
    bar.end();
    let Some(made) = made? else {
        if args.out.exists() {
            note!("{} has the complete files of weights: run the same again to go on", args.out.display());
        }
        return Err(Interrupted.into());
    };
    if made.kept > 0 {
        note!("kept {} of an earlier run", human::bytes(made.kept));
    }
    note!("wrote {} of weights", human::bytes(made.bytes));
    outln!("{}", args.out.display())?;
    Ok(())
}
