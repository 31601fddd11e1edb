//! Where models come from and are kept, and how often what fails is tried.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where models come from and are kept. The program that embeds the engine decides; nothing is read
/// from the environment.
#[derive(Clone)]
pub struct HubOptions {
    /// Address of the hub, `https://huggingface.co` by default (`HF_ENDPOINT`).
    pub endpoint: String,
    /// Directory that holds `models--org--name` (`HF_HUB_CACHE`, or `hub` under `HF_HOME`).
    pub cache_dir: PathBuf,
    /// Access token for private and gated repositories (`HF_TOKEN`). Sent to the endpoint's own
    /// scheme, host and port only.
    pub token: Option<String>,
    /// Why there is no token although one was meant to be, for the message when one is needed.
    pub token_problem: Option<String>,
    /// Use what is in the cache and never the network (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// Proxy to go through, as `http://[user:password@]host:port`.
    pub proxy: Option<String>,
    /// How failures that may pass are retried.
    pub retry: RetryPolicy,
    /// A download without a byte for so long has failed (`HF_HUB_DOWNLOAD_TIMEOUT`).
    pub stall_timeout: Duration,
    /// A question about a repository or a file that is not answered for so long has failed
    /// (`HF_HUB_ETAG_TIMEOUT`).
    pub answer_timeout: Duration,
}

impl HubOptions {
    /// The public hub, without a token, with the cache in the given directory.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: "https://huggingface.co".into(),
            cache_dir: cache_dir.into(),
            token: None,
            token_problem: None,
            offline: false,
            proxy: None,
            retry: RetryPolicy::default(),
            stall_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("cache_dir", &self.cache_dir)
            .field("token", &self.token.as_ref().map(|_| "(set)"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// Retries of what may pass: lost connections, time-outs, 408, 429 and 5xx. An attempt that brought
/// bytes of a file starts the count again, so that a large file arrives over a bad line.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in a row without progress; at least 1.
    pub attempts: u32,
    /// Wait after the first failure; doubled after each further one. A `Retry-After` of the server
    /// goes before it.
    pub first_delay: Duration,
    /// The longest wait.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 5, first_delay: Duration::from_millis(500), max_delay: Duration::from_secs(30) }
    }
}

impl RetryPolicy {
    /// The wait before the attempt after `failures` failures in a row.
    pub(super) fn delay(&self, failures: u32, retry_after: Option<Duration>) -> Duration {
        let doubled = self.first_delay.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        retry_after.unwrap_or(doubled).min(self.max_delay)
    }
}
