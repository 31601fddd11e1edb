//! Who answers the requests: a server, or the engine alone. All workloads know this only.

use super::alone::Alone;
use super::answer::{Answer, Job, NoAnswer};
use super::client::Client;

/// Who answers.
pub(super) enum Answerer {
    /// A server, over HTTP.
    Server(Client),
    /// The engine in this process.
    Alone(Box<Alone>),
}

impl Answerer {
    /// The answer, streamed.
    pub(super) async fn send(&self, job: &Job) -> Result<Answer, NoAnswer> {
        let answer = async {
            match self {
                Self::Server(client) => client.send(job).await,
                Self::Alone(alone) => alone.send(job).await,
            }
        };
        match job.cancel_after {
            None => answer.await,
            // Dropping it closes the connection, or aborts the request.
            Some(after) => tokio::time::timeout(after, answer).await.unwrap_or(Err(NoAnswer::Cancelled)),
        }
    }

    /// The answer's text, asked for whole.
    pub(super) async fn send_whole(&self, job: &Job) -> Result<String, NoAnswer> {
        match self {
            Self::Server(client) => client.send_whole(job).await,
            Self::Alone(alone) => alone.send_whole(job).await,
        }
    }

    /// The ids of a text, if they are told.
    pub(super) async fn tokenize(&self, text: &str) -> Option<Vec<u32>> {
        match self {
            Self::Server(client) => client.tokenize(text).await,
            Self::Alone(alone) => alone.tokenize(text),
        }
    }

    /// Tokens that a prompt and its answer may have together, if that is told.
    pub(super) fn context(&self) -> Option<usize> {
        match self {
            Self::Server(client) => client.max_model_len,
            Self::Alone(alone) => alone.context(),
        }
    }

    /// Requests that run, requests that wait, and how much of the KV cache is in use, as far as
    /// they are told.
    pub(super) async fn in_use(&self) -> [Option<f64>; 3] {
        match self {
            Self::Server(client) => {
                let names = ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"];
                client.metrics(names).await
            }
            Self::Alone(alone) => alone.in_use().map(Some),
        }
    }

    /// Resident bytes of the server's process, if it tells.
    pub(super) async fn resident_bytes(&self) -> Option<f64> {
        match self {
            Self::Server(client) => client.metrics(["process_resident_memory_bytes"]).await[0],
            // The client is in the same process.
            Self::Alone(_) => None,
        }
    }
}
