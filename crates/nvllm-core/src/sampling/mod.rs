//! How a token is drawn from logits: defined once, for every backend.
//!
//! A row of logits passes, in this order, through
//! 1. the grammar mask and, until `min_tokens`, the suppression of stop tokens (to minus infinity);
//! 2. `logit_bias` (added);
//! 3. penalties: repetition over prompt and output (Keskar et al. 2019, CTRL), then frequency and
//!    presence over the output (OpenAI);
//! 4. `temperature` (division; 0 means greedy: the largest logit, ties to the lower id, and steps 5
//!    to 7 are skipped);
//! 5. `min_p`: keep what has at least `min_p` times the largest probability (Nguyen et al. 2024);
//! 6. `top_k`: keep the `k` most likely, ties to the lower id (Fan et al. 2018);
//! 7. `top_p`: of what is left, renormalised, keep the shortest descending prefix with at least
//!    that much mass (Holtzman et al. 2020);
//! 8. the draw: the largest `logit + g`, where `g = -ln(-ln(u))` and `u` is the token's own uniform
//!    (Gumbel-max).
//!
//! Uniforms are counter-based (Philox): keyed by the seed, at the counter (position, choice,
//! token). A token is therefore a function of logits, seed and position, and of nothing else in the
//! batch; and since each vocabulary entry has its own uniform, the draw has no summation order and
//! can be sharded over the vocabulary.
//!
//! A row that holds NaN or plus infinity is not sampled: no token of it would mean anything
//! ([`is_usable`]).
//!
//! Log-probabilities are the model's own: log-softmax of the logits as they came, before step 1.
//!
//! All of it is defined in f64. How far a backend without f64 may be from it: [`tolerance`].

mod params;
mod philox;
mod row;
pub mod tolerance;

pub use params::SamplingParams;
pub use philox::{philox4x32, uniform};
pub use row::{Sampled, TokenCounts, is_usable, processed, sample, takes_largest, top_logprobs};
