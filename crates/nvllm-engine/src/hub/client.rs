//! The hub's HTTP interface: what a repository holds, what a file's checksum is, and its bytes.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Body, Proxy};

use super::event::{HubEvent, Progress};
use super::name::{HubId, is_commit};
use super::options::{HubOptions, RetryPolicy};
use crate::{EngineError, Result};

/// The hub redirects to a canonical name and then to a download host; more is a loop.
const MAX_REDIRECTS: usize = 8;

/// A listing of a repository is some kilobytes.
const MAX_LISTING_LEN: u64 = 64 << 20;

/// Speaks to one hub.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    /// Without a slash at the end.
    endpoint: String,
    origin: Origin,
    token: Option<String>,
    token_problem: Option<String>,
    answer_timeout: Duration,
    stall_timeout: Duration,
    pub(super) retry: RetryPolicy,
}

/// Who a request goes to: scheme, host, port. Only the endpoint's own origin is told the token.
#[derive(Debug, PartialEq, Eq)]
struct Origin(String, String, u16);

/// What a repository holds at a revision.
#[derive(Debug)]
pub(super) struct RepoInfo {
    pub(super) commit: String,
    pub(super) files: BTreeSet<String>,
}

/// What the hub says about a file without sending it.
#[derive(Debug)]
pub(super) struct FileInfo {
    /// SHA-256 of large files, git's SHA-1 of small ones; the blob's name in the cache.
    pub(super) etag: String,
    pub(super) len: u64,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may work when tried again, after this long if the server said so.
    Passing { problem: String, retry_after: Option<Duration> },
    /// It will not.
    Final(EngineError),
}

impl Failure {
    pub(super) fn passing(problem: impl Into<String>) -> Self {
        Self::Passing { problem: problem.into(), retry_after: None }
    }
}

/// Counts failures in a row and waits between attempts.
pub(super) struct Attempts<'a> {
    pub(super) what: &'a str,
    pub(super) policy: RetryPolicy,
    pub(super) failures: u32,
}

impl Attempts<'_> {
    /// Waits before the next attempt, or gives up.
    pub(super) fn after(&mut self, failure: Failure, progress: &mut Progress<'_>) -> Result<()> {
        let (problem, retry_after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { problem, retry_after } => (problem, retry_after),
        };
        self.failures += 1;
        if self.failures >= self.policy.attempts.max(1) {
            let (what, attempts) = (self.what.to_owned(), self.failures);
            return Err(EngineError::HubUnreachable { what, attempts, problem });
        }
        let delay = self.policy.delay(self.failures, retry_after);
        progress(HubEvent::Retrying { what: self.what, reason: &problem, delay });
        std::thread::sleep(delay);
        Ok(())
    }
}

impl Client {
    pub(super) fn new(options: &HubOptions) -> Result<Self> {
        let endpoint = options.endpoint.trim_end_matches('/').to_owned();
        let wrong =
            |problem: &str| EngineError::HubProtocol { what: endpoint.clone(), problem: problem.to_owned() };
        let origin = endpoint.parse().ok().and_then(|uri| Origin::of(&uri));
        let origin = origin.ok_or_else(|| wrong("the endpoint is not an http:// or https:// address"))?;
        let proxy = options.proxy.as_deref().map(Proxy::new).transpose();
        let proxy = proxy.map_err(|_| EngineError::BadProxy)?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .user_agent(concat!("nvllm/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            endpoint,
            origin,
            token: options.token.clone(),
            token_problem: options.token_problem.clone(),
            answer_timeout: options.answer_timeout,
            stall_timeout: options.stall_timeout,
            retry: options.retry,
        })
    }

    /// The commit that a revision names, and its files.
    pub(super) fn repo_info(
        &self,
        id: &HubId,
        attempts: u32,
        progress: &mut Progress<'_>,
    ) -> Result<RepoInfo> {
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint, id.repo(), escape(id.revision()));
        let what = format!("{id} ({url})");
        let policy = RetryPolicy { attempts, ..self.retry };
        let mut attempts = Attempts { what: &what, policy, failures: 0 };
        loop {
            match self.try_repo_info(id, &url, &what) {
                Ok(info) => return Ok(info),
                Err(failure) => attempts.after(failure, progress)?,
            }
        }
    }

    fn try_repo_info(&self, id: &HubId, url: &str, what: &str) -> Result<RepoInfo, Failure> {
        let response = self.follow(&Method::GET, url, None, self.answer_timeout)?;
        self.check(&response, id, what)?;
        let mut text = Vec::new();
        let mut body = response.into_body().into_with_config().limit(MAX_LISTING_LEN).reader();
        body.read_to_end(&mut text).map_err(|e| Failure::passing(e.to_string()))?;
        let wrong =
            |problem: String| Failure::Final(EngineError::HubProtocol { what: what.to_owned(), problem });
        let json: Value = serde_json::from_slice(&text).map_err(|e| wrong(format!("not JSON: {e}")))?;
        let commit = json["sha"].as_str().filter(|commit| is_commit(commit));
        let commit = commit.ok_or_else(|| wrong("the answer has no commit in its field `sha`".into()))?;
        let siblings = json["siblings"].as_array();
        let siblings = siblings.ok_or_else(|| wrong("the answer has no list `siblings` of files".into()))?;
        let files = siblings.iter().filter_map(|file| file["rfilename"].as_str()).map(str::to_owned);
        Ok(RepoInfo { commit: commit.to_owned(), files: files.collect() })
    }

    /// Where a file of a commit is.
    pub(super) fn file_url(&self, id: &HubId, commit: &str, file: &str) -> String {
        let path: Vec<_> = file.split('/').map(escape).collect();
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, id.repo(), path.join("/"))
    }

    /// Checksum and length of a file.
    pub(super) fn file_info(&self, id: &HubId, url: &str, what: &str) -> Result<FileInfo, Failure> {
        let response = self.follow(&Method::HEAD, url, None, self.answer_timeout)?;
        if !response.status().is_redirection() {
            self.check(&response, id, what)?;
        }
        let headers = response.headers();
        let wrong = |problem: &str| {
            Failure::Final(EngineError::HubProtocol { what: what.to_owned(), problem: problem.to_owned() })
        };
        let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        // It becomes a file name.
        let plain = |etag: &String| {
            (1..=128).contains(&etag.len())
                && !etag.starts_with('.')
                && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let etag = etag.filter(plain).ok_or_else(|| wrong("the answer has no usable ETag"))?;
        let len = header(headers, "x-linked-size")
            .or_else(|| header(headers, "content-length").filter(|_| response.status().is_success()));
        let len = len
            .and_then(|len| len.parse().ok())
            .ok_or_else(|| wrong("the answer does not give the file's length"))?;
        Ok(FileInfo { etag, len })
    }

    /// A file's bytes from `start` on.
    pub(super) fn get(
        &self,
        id: &HubId,
        url: &str,
        what: &str,
        start: u64,
    ) -> Result<Response<Body>, Failure> {
        let range_start = Some(start).filter(|&start| start > 0);
        let response = self.follow(&Method::GET, url, range_start, self.stall_timeout)?;
        if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            self.check(&response, id, what)?;
        }
        Ok(response)
    }

    /// Sends a request and follows redirects. A HEAD stops at the one to the download host: it
    /// comes with what the hub says about the file.
    fn follow(
        &self,
        method: &Method,
        url: &str,
        range_start: Option<u64>,
        timeout: Duration,
    ) -> Result<Response<Body>, Failure> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(method, &url, range_start, timeout)?;
            let location =
                header(response.headers(), "location").filter(|_| response.status().is_redirection());
            let Some(location) = location else { return Ok(response) };
            let Some(next) = absolute(&url, location) else {
                let problem = format!("redirects to {location:?}, which is not an address");
                return Err(Failure::Final(EngineError::HubProtocol { what: url, problem }));
            };
            let linked = response.headers().contains_key("x-linked-etag");
            if method == Method::HEAD && linked {
                return Ok(response);
            }
            url = next;
        }
        let problem = format!("more than {MAX_REDIRECTS} redirects");
        Err(Failure::Final(EngineError::HubProtocol { what: url, problem }))
    }

    fn send(
        &self,
        method: &Method,
        url: &str,
        range_start: Option<u64>,
        timeout: Duration,
    ) -> Result<Response<Body>, Failure> {
        let refused =
            |problem: String| Failure::Final(EngineError::HubProtocol { what: url.to_owned(), problem });
        let origin = url.parse().ok().and_then(|uri| Origin::of(&uri));
        let origin = origin.ok_or_else(|| refused("not an http:// or https:// address".into()))?;
        // No compression: lengths and offsets are those of the file.
        let mut request = Request::builder().method(method).uri(url).header("accept-encoding", "identity");
        if let Some(start) = range_start {
            request = request.header("range", format!("bytes={start}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| origin == self.origin) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(()).map_err(|e| refused(format!("the request cannot be written: {e}")))?;
        let timeout = Some(timeout);
        let request = self
            .agent
            .configure_request(request)
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout)
            .build();
        match self.agent.run(request) {
            Ok(response) => Ok(response),
            Err(e @ (ureq::Error::BadUri(_) | ureq::Error::Http(_))) => Err(refused(e.to_string())),
            Err(e) => Err(Failure::passing(format!("{}:{}: {e}", origin.1, origin.2))),
        }
    }

    /// Turns a status that is no success into words.
    fn check(&self, response: &Response<Body>, id: &HubId, what: &str) -> Result<(), Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let headers = response.headers();
        let said = header(headers, "x-error-message")
            .map(|text| format!(" (the hub says: {text})"))
            .unwrap_or_default();
        let token = match (&self.token, &self.token_problem) {
            (Some(_), _) => "the access token does not open it",
            (None, Some(problem)) => problem,
            (None, None) => "give an access token (HF_TOKEN) if you have one",
        };
        let problem = match (status.as_u16(), header(headers, "x-error-code").unwrap_or_default()) {
            (_, "GatedRepo") => {
                format!("the repository is gated: accept its terms on its web page, then {token}{said}")
            }
            (_, "RevisionNotFound") => format!("the repository has no revision `{}`{said}", id.revision()),
            (_, "EntryNotFound") => format!("the repository has no such file{said}"),
            (401, _) => format!("no such repository, or a private one (401): check the name; {token}{said}"),
            (403, _) => format!("access is forbidden (403): {token}{said}"),
            (404, _) => format!("there is no such repository, revision or file (404): check the name{said}"),
            (408 | 429 | 500..=599, _) => {
                let retry_after = header(headers, "retry-after").and_then(|text| text.parse().ok());
                let problem = format!("the server answers {status}{said}");
                return Err(Failure::Passing { problem, retry_after: retry_after.map(Duration::from_secs) });
            }
            _ => {
                let problem = format!("unexpected answer {status}{said}");
                return Err(Failure::Final(EngineError::HubProtocol { what: what.to_owned(), problem }));
            }
        };
        Err(Failure::Final(EngineError::HubRefused { what: what.to_owned(), problem }))
    }
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?;
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        Some(Self(scheme.into(), uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(default)))
    }
}

/// A header as text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// The address that a `Location` names, seen from the address that sent it (RFC 3986, section 5.2,
/// less dot segments).
fn absolute(base: &str, location: &str) -> Option<String> {
    let (scheme, rest) = base.split_once("://")?;
    let authority_len = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_len);
    let path = path.split('?').next().unwrap_or_default();
    let url = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.contains("://") || location.is_empty() {
        return None;
    } else {
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        format!("{scheme}://{authority}{dir}/{location}")
    };
    let without_fragment = url.split('#').next().unwrap_or_default();
    Some(without_fragment.to_owned())
}

/// Percent-encodes what may not stand in one segment of a path, the slash included.
fn escape(segment: &str) -> String {
    let mut out = String::new();
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let base = "https://hub.co:8443/a/b/c?x=/y";
        for (location, url) in [
            ("https://cdn.co/z?sig=1#f", "https://cdn.co/z?sig=1"),
            ("//cdn.co/z", "https://cdn.co/z"),
            ("/z?q", "https://hub.co:8443/z?q"),
            ("z", "https://hub.co:8443/a/b/z"),
        ] {
            assert_eq!(absolute(base, location).as_deref(), Some(url));
        }
        assert_eq!(absolute("http://hub", "z").as_deref(), Some("http://hub/z"));
        assert_eq!(absolute(base, "ftp://x/y"), None);
    }

    #[test]
    fn origins() {
        let origin = |url: &str| Origin::of(&url.parse().unwrap());
        assert_eq!(origin("https://Hub.co/x"), origin("https://hub.co:443"));
        assert_ne!(origin("https://hub.co"), origin("http://hub.co:443"));
        assert_ne!(origin("https://hub.co"), origin("https://hub.co.evil.com"));
        assert_ne!(origin("http://127.0.0.1:1"), origin("http://127.0.0.1:2"));
        assert_eq!(origin("/x"), None);
        assert_eq!(origin("file://x/y"), None);
    }

    #[test]
    fn escapes() {
        assert_eq!(escape("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(escape("a b+é"), "a%20b%2B%C3%A9");
    }
}
