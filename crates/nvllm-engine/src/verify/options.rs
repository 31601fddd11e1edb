//! What a user decides about a verification.

use crate::LoadOptions;

/// What is verified, and how long that may take.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// How the model is loaded. Variations change what they vary, and `max_num_seqs`,
    /// `max_model_len` and `enable_prefix_caching` are theirs.
    pub load: LoadOptions,
    /// Fewer and shorter requests, fewer variations.
    pub quick: bool,
    /// Requests in the set; 16, or 8 if `quick`, if not given.
    pub num_requests: Option<usize>,
    /// What the requests are drawn from.
    pub seed: u64,
}
