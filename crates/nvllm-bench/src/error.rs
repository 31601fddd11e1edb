//! The crate's errors: each says what was asked, what is possible, and what to do.

use std::path::PathBuf;

/// What every fallible function of this crate returns.
pub type Result<T, E = BenchError> = std::result::Result<T, E>;

/// What can go wrong between a command and a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// `read`, `write`, ..
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A record on which no figure may rest.
    #[error("record of {what} refused: {reason}")]
    Refused {
        /// Workload and engine.
        what: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// A line that is no record.
    #[error("{path}:{line}: {problem}")]
    BadLine {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A wish that cannot be met.
    #[error("{option}: {problem}")]
    Option {
        /// The option.
        option: &'static str,
        /// What was asked and what is possible.
        problem: String,
    },
    /// The backend computes something else than it should.
    #[error("no measurement without correctness: {detail}")]
    Incorrect {
        /// What was compared.
        detail: String,
    },
    /// Data that the crate brings along cannot be used.
    #[error("{file}: {problem}")]
    Data {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A program that was started did not do what it should.
    #[error("{path} {problem}")]
    Program {
        /// The executable.
        path: PathBuf,
        /// What it did.
        problem: String,
    },
    /// A request that did not end as it should.
    #[error("request {number} failed: {problem}")]
    Request {
        /// Its place in the set.
        number: usize,
        /// What happened.
        problem: String,
    },
    /// The engine's error.
    #[error(transparent)]
    Engine(#[from] nvllm_engine::EngineError),
    /// The backend's error.
    #[error(transparent)]
    Core(#[from] nvllm_core::CoreError),
}

impl BenchError {
    /// For `map_err` on a file's operation.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
