//! How large a step of a model is.

/// The extents of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extents {
    /// One new token for each of `seqs` sequences that have `context` tokens in the cache.
    Decode {
        /// Sequences.
        seqs: usize,
        /// Tokens of each in the cache.
        context: usize,
    },
    /// One prompt of so many tokens, its last row wanted.
    Prompt(usize),
}

impl std::fmt::Display for Extents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Decode { seqs, context } => write!(f, "decode {seqs} x 1 after {context}"),
            Self::Prompt(tokens) => write!(f, "prompt of {tokens}"),
        }
    }
}

impl Extents {
    /// New tokens.
    pub const fn tokens(self) -> usize {
        match self {
            Self::Decode { seqs, .. } => seqs,
            Self::Prompt(tokens) => tokens,
        }
    }
}
