//! What a loaded model may be asked for at once, and how it computes.

use crate::{CoreError, DType, KvFormat, Result};

/// The dtype in which values between ops are stored. Accumulation is always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// Every value stays f32.
    F32,
    /// Every op's output is rounded to bf16 (round to nearest even).
    Bf16,
}

impl Activations {
    /// The storage dtype.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::Bf16,
        }
    }

    /// The format of a KV cache that stores such values as they are.
    pub const fn kv_format(self) -> KvFormat {
        match self {
            Self::F32 => KvFormat::F32,
            Self::Bf16 => KvFormat::Bf16,
        }
    }
}

/// What a backend promises about the order of its sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Numerics {
    /// A token's values do not depend on what else is in the step, on chunking, paging or bucket:
    /// bit for bit.
    Invariant,
    /// Kernels with another summation order may be chosen by shape.
    Fast,
}

impl Numerics {
    /// Its name on the command line and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invariant => "invariant",
            Self::Fast => "fast",
        }
    }
}

/// The contract under which a model is loaded: memory is planned from it before a byte is read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// New tokens in one step, over all sequences.
    pub step_tokens: usize,
    /// Rows whose logits one step may ask for.
    pub step_outputs: usize,
    /// Sequences in one step, and slots.
    pub seqs: usize,
    /// Tokens of one sequence, prompt and output together.
    pub context: usize,
    /// KV positions in one block (page).
    pub block_len: usize,
    /// Bytes of KV cache, all groups together, the null blocks included.
    pub kv_bytes: usize,
    /// How keys and values are stored.
    pub kv_format: KvFormat,
    /// Storage of values between ops.
    pub activations: Activations,
    /// Summation-order promise.
    pub numerics: Numerics,
    /// Steps submitted and not yet collected.
    pub max_in_flight: usize,
    /// Whether a row of which only the largest logit matters may find it through a copy of the head
    /// in 8 bits: the same tokens, for more memory.
    pub exact_head: bool,
}

/// The largest extent: rows, slots and positions are numbered with 32 bits, signed in kernels.
pub const MAX_EXTENT: usize = i32::MAX as usize;

/// The largest allocation that the address space has.
pub const MAX_BYTES: usize = isize::MAX as usize;

impl Limits {
    /// KV positions in one block where nobody asks for another number: vLLM's default.
    pub const BLOCK_LEN: usize = 16;

    /// Limits for `seqs` sequences of up to `context` tokens each: a step takes the tokens of one
    /// whole sequence, and an output row of each. Keys and values are stored as `activations`, sums
    /// are invariant, one step is in flight, and there is no KV cache: what has one sets
    /// `kv_bytes`.
    pub const fn new(activations: Activations, seqs: usize, context: usize) -> Self {
        Self {
            step_tokens: context,
            step_outputs: seqs,
            seqs,
            context,
            block_len: Self::BLOCK_LEN,
            kv_bytes: 0,
            kv_format: activations.kv_format(),
            activations,
            numerics: Numerics::Invariant,
            max_in_flight: 1,
            exact_head: false,
        }
    }

    /// Rejects extents of 0 or above [`MAX_EXTENT`].
    pub fn check(&self) -> Result<()> {
        let extents = [
            ("context", self.context),
            ("seqs", self.seqs),
            ("block_len", self.block_len),
            ("step_tokens", self.step_tokens),
            ("step_outputs", self.step_outputs),
            ("max_in_flight", self.max_in_flight),
        ];
        for (field, value) in extents {
            let problem = match value {
                0 => "is 0; give at least 1".into(),
                1..=MAX_EXTENT => continue,
                _ => format!("is {value}; up to {MAX_EXTENT} are supported"),
            };
            return Err(CoreError::BadLimits { field, problem });
        }
        Ok(())
    }
}
