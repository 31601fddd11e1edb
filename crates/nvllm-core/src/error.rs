//! The crate's errors: each says what was asked, what is possible, and what to do.

use std::path::PathBuf;

/// The result of a core operation.
pub type Result<T, E = CoreError> = std::result::Result<T, E>;

/// What can go wrong between a checkpoint and a step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// A file could not be opened, mapped or read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A checkpoint file is not what its name says.
    #[error("{path}: {problem}; download the file again or check that it is complete")]
    BadCheckpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
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
    #[error("limit `{field}`: {problem}")]
    BadLimits {
        /// The field of [`Limits`](crate::Limits).
        field: &'static str,
        /// What was asked and what is possible.
        problem: String,
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
        range: &'static str,
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
