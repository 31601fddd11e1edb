//! What the program that starts a server decides.

use std::sync::Arc;
use std::time::Duration;

use super::tls::TlsFiles;
use crate::keys::ApiKeys;
use crate::traces::Traces;

/// How a server treats its connections.
#[derive(Debug)]
pub struct ServerOptions {
    /// Keys that clients must have; none are asked for if there are none.
    pub api_keys: Arc<ApiKeys>,
    /// Origins of web pages that may call; `*` for all.
    pub allowed_origins: Vec<String>,
    /// Certificate and key, for HTTPS.
    pub tls: Option<TlsFiles>,
    /// Bytes of a request's body at most.
    pub max_body_size: usize,
    /// How long a client may take for a request's head, or do nothing between two requests.
    pub header_timeout: Duration,
    /// How long a client may take for a request's body.
    pub body_timeout: Duration,
    /// How long a client may take no byte of its answer.
    pub write_timeout: Duration,
    /// Whether each request gets a line in the log.
    pub log_requests: bool,
    /// Where spans of requests go.
    pub traces: Option<Arc<Traces>>,
    /// Whether bodies of requests, with the prompts in them, are logged.
    pub log_prompts: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            api_keys: Arc::default(),
            allowed_origins: vec!["*".into()],
            tls: None,
            max_body_size: 32 << 20,
            header_timeout: Duration::from_mins(1),
            body_timeout: Duration::from_mins(2),
            write_timeout: Duration::from_mins(1),
            log_requests: true,
            traces: None,
            log_prompts: false,
        }
    }
}
