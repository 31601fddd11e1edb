//! What a server tells of itself, in the forms that routers read.

use serde::Serialize;
use utoipa::ToSchema;

/// The server's version.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    pub(crate) version: &'static str,
}

/// Whether requests are taken.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ready`, `loading`, `draining` or `failed`.
    pub(crate) status: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The share of the model that is loaded, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) progress: Option<f64>,
}

/// How much there is to do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServerLoad {
    /// Requests that have not been answered in full.
    pub(crate) server_load: usize,
}

/// How much there is to do, by replica: there is one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Loads {
    pub(crate) loads: Vec<Load>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Load {
    pub(crate) dp_rank: usize,
    pub(crate) num_running_reqs: usize,
    pub(crate) num_waiting_reqs: usize,
    /// Of the prompts that wait; what the cache has of them is not known before they are admitted.
    pub(crate) num_waiting_uncached_tokens: usize,
    pub(crate) num_total_reqs: usize,
    /// Tokens that the KV cache's used blocks have room for.
    pub(crate) num_used_tokens: usize,
    pub(crate) max_total_num_tokens: usize,
    /// `num_used_tokens` divided by `max_total_num_tokens`.
    pub(crate) token_usage: f64,
    /// Tokens a second since somebody asked before.
    pub(crate) gen_throughput: f64,
    /// Share of the prompts' tokens that the cache had, since the start.
    pub(crate) cache_hit_rate: f64,
    /// `num_running_reqs` divided by `max_running_requests`.
    pub(crate) utilization: f64,
    /// 0 until the model is loaded.
    pub(crate) max_running_requests: usize,
}

/// What is served, and under which limits.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServerInfo {
    pub(crate) served_model_name: String,
    /// The model's directory or hub id.
    pub(crate) model_path: String,
    pub(crate) tokenizer_path: String,
    /// Tokens of prompt and answer together; null until the model is loaded.
    pub(crate) max_model_len: Option<usize>,
    /// Choices of requests that run at once; null until the model is loaded.
    pub(crate) max_num_seqs: Option<usize>,
    /// What computes; null until the model is loaded.
    pub(crate) device: Option<String>,
    pub(crate) version: &'static str,
}

/// The model that is served.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelInfo {
    pub(crate) served_model_name: String,
    /// The model's directory or hub id.
    pub(crate) model_path: String,
    pub(crate) tokenizer_path: String,
    /// That it makes text, and not embeddings.
    pub(crate) is_generation: bool,
    /// Tokens of prompt and answer together; null until the model is loaded.
    pub(crate) max_model_len: Option<usize>,
    pub(crate) vocab_size: usize,
}
