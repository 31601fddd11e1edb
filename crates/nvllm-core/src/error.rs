//! The crate's errors: each says what was asked, what is possible, and what to do.
//!
//! The law of every error type of the workspace: `Display` says all of it, the cause included, and
//! there is no `source()`. A message is then whole wherever it is shown, and nothing that walks a
//! chain of causes says a sentence twice. Fields that hold a cause are called `cause` for that
//! reason.

use std::path::PathBuf;

use crate::ByteCount;

/// The result of a core operation.
pub type Result<T, E = CoreError> = std::result::Result<T, E>;

/// What can go wrong between a checkpoint and a step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// A file could not be opened, mapped or read.
    #[error("cannot read {}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        cause: std::io::Error,
    },
    /// A checkpoint file is not what its name says.
    #[error("{}: {problem}; download the file again or check that it is complete", path.display())]
    BadCheckpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A checkpoint file is whole, and is of a kind that is not read.
    #[error("{}: {problem}", path.display())]
    UnsupportedCheckpoint {
        /// The file.
        path: PathBuf,
        /// What it is and what is supported.
        problem: String,
    },
    /// A value among a checkpoint file's metadata is missing or absurd.
    #[error("{}: metadata `{key}` {problem}", path.display())]
    BadMetadata {
        /// The file.
        path: PathBuf,
        /// The value's key.
        key: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// The architecture names a tensor that the checkpoint lacks.
    #[error("tensor `{name}` is missing from {place}; the checkpoint does not match its config.json")]
    MissingTensor {
        /// The tensor.
        name: String,
        /// Where it was looked for.
        place: String,
    },
    /// The checkpoint holds a tensor that the architecture does not use.
    #[error(
        "tensor `{name}` in {place} is not part of this architecture; check `architectures` in config.json"
    )]
    UnknownTensor {
        /// The tensor.
        name: String,
        /// The checkpoint.
        place: String,
    },
    /// A tensor's shape or dtype is not the one that config.json implies.
    #[error("tensor `{name}`: {problem}")]
    BadTensor {
        /// The tensor.
        name: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A field of config.json is missing or absurd.
    #[error("config.json: `{field}` {problem}")]
    BadConfig {
        /// The field.
        field: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// A model crate recorded something that cannot be: a fault in that crate.
    #[error("program `{program}`: {problem}")]
    BadProgram {
        /// The program.
        program: String,
        /// The first fault.
        problem: String,
    },
    /// The backend does not run this op in this shape, and no expansion helps.
    #[error("backend `{backend}` does not run {op}: {reason}")]
    Unsupported {
        /// The backend.
        backend: String,
        /// The op.
        op: String,
        /// Why not, and what it takes.
        reason: String,
    },
    /// The limits cannot be met.
    #[error("limit `{field}` {problem}")]
    BadLimits {
        /// The field of [`Limits`](crate::Limits).
        field: &'static str,
        /// What was asked and what is possible.
        problem: String,
    },
    /// What loading takes is more than there is.
    #[error("the model does not fit: {need} are needed, and {place} has {}; {advice}", ByteCount(*available))]
    DoesNotFit {
        /// What loading would hold.
        need: crate::MemoryReport,
        /// Bytes that there are.
        available: usize,
        /// Whose memory that is, in words.
        place: String,
        /// What would fit.
        advice: String,
    },
    /// The system gave no memory although the plan fits: something else took it.
    #[error(
        "the system has no {} left for {what}; end what else takes memory, or load the model with a smaller KV cache",
        ByteCount(*bytes)
    )]
    OutOfMemory {
        /// Bytes of the allocation that failed.
        bytes: usize,
        /// What it was for.
        what: &'static str,
    },
    /// A step does not fit the limits or the state it was submitted to: a fault in the scheduler.
    #[error("step {step}: {problem}")]
    BadStep {
        /// The step.
        step: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A device, its driver or its compiler failed.
    #[error("backend `{backend}`: {problem}")]
    Device {
        /// The backend.
        backend: String,
        /// What failed and what to do.
        problem: String,
    },
    /// A sampling parameter is outside its range.
    #[error("sampling parameter `{field}` is {value}: {range}")]
    BadSampling {
        /// The parameter.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        range: String,
    },
}

impl CoreError {
    /// A config.json fault.
    pub fn config(field: &str, problem: impl Into<String>) -> Self {
        Self::BadConfig { field: field.into(), problem: problem.into() }
    }

    /// A fault in a step.
    pub fn step(step: crate::StepId, problem: impl Into<String>) -> Self {
        Self::BadStep { step: step.0, problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new variant does not compile until it is counted here.
    fn number(error: &CoreError) -> usize {
        match error {
            CoreError::Io { .. } => 0,
            CoreError::BadCheckpoint { .. } => 1,
            CoreError::MissingTensor { .. } => 2,
            CoreError::UnknownTensor { .. } => 3,
            CoreError::BadTensor { .. } => 4,
            CoreError::BadConfig { .. } => 5,
            CoreError::BadProgram { .. } => 6,
            CoreError::Unsupported { .. } => 7,
            CoreError::BadLimits { .. } => 8,
            CoreError::DoesNotFit { .. } => 9,
            CoreError::OutOfMemory { .. } => 10,
            CoreError::BadStep { .. } => 11,
            CoreError::Device { .. } => 12,
            CoreError::BadSampling { .. } => 13,
            CoreError::UnsupportedCheckpoint { .. } => 14,
            CoreError::BadMetadata { .. } => 15,
        }
    }

    /// One of each variant.
    fn all() -> Vec<CoreError> {
        let io = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let text = String::from;
        vec![
            CoreError::Io { path: "m/model.safetensors".into(), cause: io() },
            CoreError::BadCheckpoint { path: "m/model.safetensors".into(), problem: text("is cut short") },
            CoreError::MissingTensor { name: text("lm_head.weight"), place: text("m") },
            CoreError::UnknownTensor { name: text("extra"), place: text("m") },
            CoreError::BadTensor { name: text("norm"), problem: text("has shape [1]") },
            CoreError::config("hidden_size", "is missing"),
            CoreError::BadProgram { program: text("generate"), problem: text("has no sampler") },
            CoreError::Unsupported { backend: text("cpu"), op: text("top_k"), reason: text("k is 99") },
            CoreError::BadLimits { field: "seqs", problem: text("is 0; give at least 1") },
            CoreError::DoesNotFit {
                need: crate::MemoryReport { weights: 1 << 30, kv: 1 << 20, arena: 512, scratch: 0 },
                available: 1 << 29,
                place: text("the GPU"),
                advice: text("use a larger GPU"),
            },
            CoreError::OutOfMemory { bytes: 1 << 40, what: "the KV cache" },
            CoreError::step(crate::StepId(3), "has no rows"),
            CoreError::Device { backend: text("cuda"), problem: text("the device is lost") },
            CoreError::BadSampling { field: "top_p", value: text("0"), range: text("use a number up to 1") },
            CoreError::UnsupportedCheckpoint { path: "m.gguf".into(), problem: text("is big-endian") },
            CoreError::BadMetadata { path: "m.gguf".into(), key: text("a.b"), problem: text("is missing") },
        ]
    }

    #[test]
    fn a_message_is_whole_and_has_no_source() {
        assert!(all().iter().map(number).eq(0..16));
        for error in all() {
            assert!(std::error::Error::source(&error).is_none(), "{error}");
        }
    }

    #[test]
    fn what_does_not_fit_says_its_parts_in_units() {
        let text = all().iter().find(|e| matches!(e, CoreError::DoesNotFit { .. })).unwrap().to_string();
        let expected = "the model does not fit: 1.0 GiB (weights 1.0 GiB, KV cache 1.0 MiB, values between ops 512 bytes) \
                        are needed, and the GPU has 512.0 MiB; use a larger GPU";
        assert_eq!(text, expected);
    }
}
