//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nvllm_core::Numerics;

/// An LLM inference engine: fast, the same answer every time, in one binary.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Continue a text.
    Generate(Generate),
    /// Talk to a model.
    Chat(Chat),
    /// Write a model's logits for given token ids to a safetensors file.
    Logits(Logits),
    /// Describe a model: architecture, parameters, bytes by kind.
    Info(Info),
    /// Plan memory: what a model takes under given limits, and what fits.
    Plan(Plan),
    /// Measure a model on this machine, against the limits of its hardware.
    Bench(Bench),
    /// Say what this machine has for running models, and what is missing.
    Doctor,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    /// The fastest that this machine has.
    Auto,
    /// The CPU, with SIMD and threads.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// The scalar reference: slow, and right.
    Reference,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    F32,
    Bf16,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Promise {
    /// The same answer whatever else is in the batch, bit for bit.
    Invariant,
    /// Whatever kernel measures faster for a batch size, the vendor's library among them.
    Fast,
}

impl Promise {
    pub(crate) const fn numerics(self) -> Numerics {
        match self {
            Self::Invariant => Numerics::Invariant,
            Self::Fast => Numerics::Fast,
        }
    }
}

/// Where to compute.
#[derive(Args, Clone)]
pub(crate) struct DeviceArgs {
    /// Where to compute.
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: BackendName,
    /// Which GPU of the CUDA backend, as the driver numbers them; the first if not given.
    #[arg(long, value_name = "N")]
    pub gpu: Option<usize>,
    /// Threads of the CPU backend; as many as the process may use if not given.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Pin each thread of the CPU backend to a core.
    #[arg(long)]
    pub pin: bool,
}

/// Which model, on what.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// A directory in Hugging Face's layout, or a hub id (org/name or org/name@revision); the embedded demo model if not given.
    #[arg(short, long)]
    pub model: Option<String>,
    #[command(flatten)]
    pub load: LoadArgs,
}

/// How it is loaded.
#[derive(Args, Clone)]
#[command(next_help_heading = "Loading")]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Dtype of values between ops; bf16 for models saved in bf16, else f32, if not given.
    #[arg(long, value_enum)]
    pub activations: Option<Dtype>,
    /// What is promised about the order of sums.
    #[arg(long, value_enum, default_value = "invariant")]
    pub numerics: Promise,
    /// Dtype of the KV cache; that of the activations if not given.
    #[arg(long, value_enum)]
    pub kv_cache_dtype: Option<Dtype>,
    /// Tokens of one sequence, prompt and output together; the model's own maximum if not given.
    #[arg(long)]
    pub max_model_len: Option<usize>,
    /// Tokens in one step: longer prompts are cut into chunks; 512 on a CPU and 8192 on a GPU if not given.
    #[arg(long)]
    pub max_num_batched_tokens: Option<usize>,
    /// Bytes of KV cache.
    #[arg(long)]
    pub kv_cache_bytes: Option<usize>,
    /// Positions in one block of the KV cache.
    #[arg(long, default_value_t = 16)]
    pub block_size: usize,
    /// Run this fused op through its expansion into primitives (for debugging a kernel).
    #[arg(long, value_name = "OP")]
    pub expand: Vec<String>,
}

/// How tokens are drawn. What is not given comes from the model's generation_config.json.
#[derive(Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Tokens to generate at most.
    #[arg(short = 'n', long)]
    pub max_tokens: Option<usize>,
    /// 0 is greedy.
    #[arg(short, long, allow_hyphen_values = true)]
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens; 0 keeps all.
    #[arg(long)]
    pub top_k: Option<u32>,
    /// Keep the most likely tokens that have this much probability together.
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Keep tokens with at least this share of the largest probability.
    #[arg(long)]
    pub min_p: Option<f32>,
    /// Above 1: makes tokens of prompt and output less likely.
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
    /// Subtracted from the logit of a token that is in the output.
    #[arg(long, allow_hyphen_values = true)]
    pub presence_penalty: Option<f32>,
    /// Subtracted from the logit of a token once for each time it is in the output.
    #[arg(long, allow_hyphen_values = true)]
    pub frequency_penalty: Option<f32>,
    /// Add a number to a token's logit.
    #[arg(long, value_name = "TOKEN_ID=BIAS", value_parser = parse_bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws: the same seed gives the same text. Random, and reported, if not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Stop before this text; may be given several times.
    #[arg(long)]
    pub stop: Vec<String>,
    /// Go on past the model's end-of-text tokens.
    #[arg(long)]
    pub ignore_eos: bool,
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "use TOKEN_ID=BIAS, as in 42=-1.5".into())
}

#[derive(Args)]
pub(crate) struct Generate {
    /// The text to continue; `-` reads standard input.
    pub prompt: String,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Show special tokens.
    #[arg(long)]
    pub special: bool,
    /// Report log-probabilities of each token and of this many of the most likely (with --json).
    #[arg(long, value_name = "K", requires = "json")]
    pub logprobs: Option<u16>,
    /// Print one JSON object when done, instead of text as it comes.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub(crate) struct Chat {
    /// A message to answer; without one, a conversation is read from the terminal.
    pub message: Option<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// A system message.
    #[arg(long)]
    pub system: Option<String>,
    /// Whether the model thinks before it answers (for templates that know `enable_thinking`).
    #[arg(long, value_name = "BOOL")]
    pub thinking: Option<bool>,
}

#[derive(Args)]
pub(crate) struct Logits {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Token ids: a list (`1,2,3`), or a file of them (JSON, or separated by spaces or commas).
    #[arg(long, value_name = "LIST|FILE")]
    pub ids: String,
    /// Position ids, likewise; 0, 1, 2, .. if not given.
    #[arg(long, value_name = "LIST|FILE")]
    pub positions: Option<String>,
    /// The file to write: tensor `logits` [tokens, vocabulary], f32.
    #[arg(long)]
    pub out: PathBuf,
}

#[derive(Args)]
pub(crate) struct Info {
    /// A directory or a hub id; the embedded demo model if not given.
    pub model: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Print the recorded program as well.
    #[arg(long)]
    pub program: bool,
}

#[derive(Args)]
pub(crate) struct Plan {
    /// A directory or a hub id; the embedded demo model if not given.
    pub model: Option<String>,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Sequences at once.
    #[arg(long, default_value_t = 16)]
    pub max_num_seqs: usize,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub(crate) struct Bench {
    /// Workloads (see --list); all if none is named.
    pub workloads: Vec<String>,
    /// List the workloads with their definitions.
    #[arg(long)]
    pub list: bool,
    /// A directory or a hub id; the embedded demo model if not given.
    #[arg(short, long)]
    pub model: Option<String>,
    /// Fewer sizes and rounds: a look, not a measurement to quote.
    #[arg(long)]
    pub quick: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Dtype of values between ops and of the KV cache; bf16 for models saved in bf16, else f32, if not given.
    #[arg(long, value_enum)]
    pub activations: Option<Dtype>,
    /// What is promised about the order of sums.
    #[arg(long, value_enum, default_value = "invariant")]
    pub numerics: Promise,
    /// Tokens in one step: longer prompts are cut into chunks; 512 on a CPU and 8192 on a GPU if not given.
    #[arg(long)]
    pub max_num_batched_tokens: Option<usize>,
    /// Share of the nano set's requests and lengths; as much as fits the time if not given.
    #[arg(long)]
    pub scale: Option<f64>,
    /// Seconds that one case may take: larger ones are skipped, with a line that says so.
    #[arg(long, default_value_t = 60.0)]
    pub case_seconds: f64,
    /// Also write a trace of every op of a prompt and some decoded tokens (Perfetto opens it).
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// The file that the records are appended to.
    #[arg(long, default_value = "nvllm-bench.jsonl")]
    pub records: PathBuf,
}
