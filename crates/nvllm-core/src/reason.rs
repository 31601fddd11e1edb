//! Refusals of ops.

/// Why a backend does not run an op in some shape, and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(pub String);
