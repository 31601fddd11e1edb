//! What a failed case says.

use nvllm_core::CoreError;

/// The result of a check.
pub type Result<T, E = Mismatch> = std::result::Result<T, E>;

/// How a backend departs from the reference.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// The backend refused what it must run.
    #[error("{doing} failed: {cause}; a backend runs every primitive op, so this must succeed")]
    Refused {
        /// What was asked of it.
        doing: String,
        /// Its answer.
        cause: CoreError,
    },
    /// A value is out of tolerance.
    #[error("{0}")]
    Value(Box<Difference>),
    /// A promise of the `Backend`, `Executable` or `KvCache` trait is broken.
    #[error("{0}")]
    Contract(String),
    /// A property failed; the smallest counterexample that was found.
    #[error(
        "case `{case}` fails (seed {seed}; run again with PROPTEST_RNG_SEED={seed}): {reason}\nfor {input}"
    )]
    Property {
        /// The case.
        case: String,
        /// Seed of the generator.
        seed: u64,
        /// Why, for the shrunk input.
        reason: String,
        /// The shrunk input.
        input: String,
    },
}

impl Mismatch {
    /// A broken promise.
    pub(crate) fn contract(what: impl Into<String>) -> Self {
        Self::Contract(what.into())
    }
}

/// Adds what was being done to a backend's error.
pub(crate) trait Doing<T> {
    /// Names the action.
    fn doing(self, what: &str) -> Result<T>;
}

impl<T> Doing<T> for nvllm_core::Result<T> {
    fn doing(self, what: &str) -> Result<T> {
        self.map_err(|cause| Mismatch::Refused { doing: what.into(), cause })
    }
}

/// The first value that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Which step of the case, from 0.
    pub step: usize,
    /// The op, as the program's display shows it.
    pub line: String,
    /// Row of the value.
    pub row: usize,
    /// Column of the value.
    pub col: usize,
    /// What the backend has there.
    pub got: f32,
    /// What the reference makes of the backend's own inputs.
    pub expected: f32,
    /// The largest difference that the tolerance table allows here; 0: bit-equal.
    pub allowed: f64,
    /// Elements out of tolerance.
    pub num_bad: usize,
    /// Elements compared.
    pub num_values: usize,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, line, row, col, got, expected, allowed, num_bad, num_values } = self;
        let off = (f64::from(*got) - f64::from(*expected)).abs();
        write!(
            f,
            "step {step}: `{line}`: first difference at row {row}, column {col}: backend {got:e}, reference \
             {expected:e}, off by {off:.3e} where {allowed:.3e} is allowed; {num_bad} of {num_values} values differ"
        )
    }
}
