//! Which model, and how it is loaded.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use nvllm_core::{KvFormat, Numerics};

use super::{DeviceArgs, QuantizeArgs, number};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    F32,
    Bf16,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvCacheDtype {
    /// That of the activations.
    Auto,
    F32,
    Bf16,
    /// FP8 E4M3, without scales.
    #[value(alias = "fp8_e4m3")]
    Fp8,
    /// 8-bit integers, with a scale for each token and head.
    Int8,
}

impl KvCacheDtype {
    pub(crate) const fn format(self) -> Option<KvFormat> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(KvFormat::F32),
            Self::Bf16 => Some(KvFormat::Bf16),
            Self::Fp8 => Some(KvFormat::Fp8),
            Self::Int8 => Some(KvFormat::Int8),
        }
    }

    /// Whether it rounds keys and values to 8 bits.
    pub(crate) const fn is_coded(self) -> bool {
        matches!(self, Self::Fp8 | Self::Int8)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Promise {
    /// Bit-identical results for any batch.
    Invariant,
    /// The fastest kernel for each batch size, cuBLASLt's among them: results may differ.
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

/// Which model, on what.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// A directory in Hugging Face's layout, a GGUF file, or a hub id (org/name, org/name:TYPE
    /// for a GGUF file of it, both also with @revision); the embedded demo model if not given.
    #[arg(short, long, help_heading = "Loading", value_parser = NonEmptyStringValueParser::new())]
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
    #[command(flatten)]
    pub quantize: QuantizeArgs,
    /// Dtype of values between ops; bf16 for models saved in bf16 or quantised, else f32, if not
    /// given.
    #[arg(long, value_enum)]
    pub activations: Option<Dtype>,
    /// Whether results may depend on the batch.
    #[arg(long, value_enum, default_value = "invariant")]
    pub numerics: Promise,
    /// Find the tokens of a greedy request that runs alone through a copy of the head in 8 bits:
    /// the same tokens in less time, for the memory of the copy. On a CPU.
    #[arg(long, conflicts_with = "quantize_head")]
    pub exact_head: bool,
    /// How keys and values are stored.
    #[arg(long, value_enum, default_value = "auto")]
    pub kv_cache_dtype: KvCacheDtype,
    /// Tokens of one sequence, prompt and output together; the model's own maximum, or what fits,
    /// if not given.
    #[arg(long, value_parser = number::positive)]
    pub max_model_len: Option<usize>,
    /// Tokens in one step: longer prompts are cut into chunks; 512 on a CPU and 8192 on a GPU if
    /// not given.
    #[arg(long, value_parser = number::positive)]
    pub max_num_batched_tokens: Option<usize>,
    /// Bytes of KV cache, as in 4GiB; enough for the sequences, up to half of the free memory, if
    /// not given.
    #[arg(long, value_name = "BYTES", value_parser = number::bytes)]
    pub kv_cache_bytes: Option<usize>,
    /// Positions in one block of the KV cache.
    #[arg(long, default_value_t = 16, value_parser = number::positive)]
    pub block_size: usize,
    /// Run this fused op through its expansion into primitives (for debugging a kernel).
    #[arg(long, value_name = "OP")]
    pub expand: Vec<String>,
}
