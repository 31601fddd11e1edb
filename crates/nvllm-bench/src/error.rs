//! The crate's errors: each says what was asked, what is possible, and what to do.

use std::path::PathBuf;

/// What every fallible function of this crate returns.
pub type Result<T, E = BenchError> = std::result::Result<T, E>;

/// What can go wrong between a command and a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// `read`, `write`, ..
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's word.
        cause: std::io::Error,
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
    /// A server that cannot be measured.
    #[error("the server: {problem}")]
    Server {
        /// What it does, or does not.
        problem: String,
    },
    /// The backend computes something else than it should.
    #[error("no measurement without correctness: {detail}")]
    Incorrect {
        /// What was compared.
        detail: String,
    },
    /// Data that the crate embeds, or records that a block names, cannot be used.
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
        move |cause| Self::Io { action, path, cause }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_message_is_whole_and_has_no_source() {
        let text = String::from;
        let core = || nvllm_core::CoreError::config("hidden_size", "is missing");
        let all = [
            BenchError::io("write", "records.jsonl")(std::io::ErrorKind::PermissionDenied.into()),
            BenchError::Refused { what: text("decode"), reason: text("no check") },
            BenchError::BadLine { path: "records.jsonl".into(), line: 2, problem: text("is cut short") },
            BenchError::Option { option: "--scale", problem: text("is 0") },
            BenchError::Incorrect { detail: text("token 3 differs") },
            BenchError::Data { file: text("prompts.txt"), problem: text("is empty") },
            BenchError::Program { path: "python3".into(), problem: text("has ended") },
            BenchError::Request { number: 1, problem: text("the engine has stopped") },
            BenchError::Engine(core().into()),
            BenchError::Core(core()),
            BenchError::Server { problem: text("is gone") },
        ];
        // A new variant does not compile until it is counted here.
        let number = |error: &BenchError| match error {
            BenchError::Io { .. } => 0,
            BenchError::Refused { .. } => 1,
            BenchError::BadLine { .. } => 2,
            BenchError::Option { .. } => 3,
            BenchError::Incorrect { .. } => 4,
            BenchError::Data { .. } => 5,
            BenchError::Program { .. } => 6,
            BenchError::Request { .. } => 7,
            BenchError::Engine(_) => 8,
            BenchError::Core(_) => 9,
            BenchError::Server { .. } => 10,
        };
        assert!(all.iter().map(number).eq(0..11));
        for error in all {
            assert!(error.source().is_none(), "{error}");
        }
    }
}
