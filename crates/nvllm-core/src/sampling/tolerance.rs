//! How far a backend may be from the definition, which is in f64: the contract of draws and of
//! log-probabilities on devices that have f32 only, or sum in another order.
//!
//! Without arithmetic on the logits there is none: greedy takes the largest, of equals the lowest
//! id, exactly. Where two candidates are closer together than this, such a backend may take either,
//! and takes the same one every time: a token stays a function of logits, seed and position,
//! whatever else is in the batch.

/// Absolute error allowed in the score of step 8, `logit / temperature + Gumbel noise`, for each
/// unit of `1 + |score|`. The noise is two logarithms in f32, whose argument near 1 carries few
/// bits.
pub const SCORE: f64 = 1e-4;

/// Relative error allowed in a probability that is held against min-p or top-p.
pub const MASS: f64 = 1e-4;

/// Absolute error allowed in a log-probability, for each unit of `4 + |logit| + |logprob|`: the sum
/// of a vocabulary's exponentials in f32 enters through its logarithm, so its relative error
/// becomes an absolute one.
pub const LOGPROB: f64 = 32.0 / (1 << 24) as f64;
