//! What can go wrong.

use nvllm_cpu_kernels::MissingIsa;

/// An error of the CPU backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// An instruction set was asked for that this machine lacks.
    #[error(transparent)]
    MissingIsa(#[from] MissingIsa),
    /// A thread count that no pool can have.
    #[error("a pool of {asked} threads was asked for; 1 to {max} are supported")]
    BadThreads {
        /// Threads asked for.
        asked: usize,
        /// Most threads supported.
        max: usize,
    },
    /// The process's pool exists and differs from what is asked.
    #[error(
        "this process already has a pool of {have} threads, {asked} were asked for; use one setting per process"
    )]
    PoolMismatch {
        /// Threads of the existing pool.
        have: usize,
        /// Threads asked for.
        asked: usize,
    },
    /// The operating system gave no thread or no affinity.
    #[error("{what} failed: {cause}; lower --threads or drop --pin")]
    Os {
        /// The operation.
        what: &'static str,
        /// The system's words.
        cause: String,
    },
    /// Arguments of an op that do not fit together.
    #[error("{op}: {problem}")]
    Shape {
        /// The op.
        op: &'static str,
        /// What does not fit, with the numbers.
        problem: String,
    },
}

impl CpuError {
    /// An error of `op`, for `ensure!`.
    pub(crate) fn shape(op: &'static str, problem: String) -> Self {
        Self::Shape { op, problem }
    }
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, CpuError>;

/// Returns [`CpuError::Shape`] unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $op:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::CpuError::shape($op, format!($($message)+)));
        }
    };
}
pub(crate) use ensure;

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use nvllm_cpu_kernels::Isa;

    use super::*;

    #[test]
    fn a_message_is_whole_and_has_no_source() {
        let all = [
            CpuError::MissingIsa(MissingIsa { isa: Isa::Scalar, missing: "avx2" }),
            CpuError::BadThreads { asked: 0, max: 8 },
            CpuError::PoolMismatch { have: 1, asked: 2 },
            CpuError::Os { what: "pinning a thread", cause: "not permitted".into() },
            CpuError::shape("linear", "3 columns where 4 are needed".into()),
        ];
        // A new variant does not compile until it is counted here.
        let number = |error: &CpuError| match error {
            CpuError::MissingIsa(_) => 0,
            CpuError::BadThreads { .. } => 1,
            CpuError::PoolMismatch { .. } => 2,
            CpuError::Os { .. } => 3,
            CpuError::Shape { .. } => 4,
        };
        assert!(all.iter().map(number).eq(0..5));
        for error in all {
            assert!(error.source().is_none(), "{error}");
        }
    }
}
