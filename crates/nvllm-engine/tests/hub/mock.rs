//! A hub with one repository, a separate download host for large files, and faults on demand. The
//! binary's tests use it, too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nvllm_engine::Result;
use nvllm_engine::hub::{HubEvent, HubOptions, ModelFiles, RetryPolicy, resolve};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::server::{Reply, Seen, Server};

pub(crate) const ID: &str = "acme/tiny-1";
pub(crate) const TOKEN: &str = "hf_secret";

/// Something to go wrong once.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Close the connection after so many bytes of the body.
    CutAt(usize),
    /// Say nothing after so many bytes, for longer than the client waits.
    StallAt(usize),
    /// Change one byte.
    Corrupt,
    /// Send the whole file whatever the range.
    IgnoreRange,
    /// Answer this instead.
    Instead(Reply),
}

#[derive(Debug, Clone)]
pub(crate) struct RepoFile {
    pub(crate) content: Vec<u8>,
    /// Kept in large-file storage: redirected to the download host, SHA-256.
    pub(crate) large: bool,
}

impl RepoFile {
    pub(crate) fn etag(&self) -> String {
        if self.large {
            format!("{:x}", Sha256::digest(&self.content))
        } else {
            let head = format!("blob {}\0", self.content.len());
            format!("{:x}", Sha1::new().chain_update(head).chain_update(&self.content).finalize())
        }
    }
}

pub(crate) struct Repo {
    pub(crate) commit: String,
    pub(crate) files: BTreeMap<String, RepoFile>,
    /// Keyed by method and file, as in `GET model.safetensors`; `GET` alone is the listing.
    pub(crate) faults: HashMap<String, VecDeque<Fault>>,
    /// Paths of this repository are redirected to `acme/tiny-1`.
    pub(crate) renamed_from: Option<String>,
    pub(crate) needs_token: bool,
}

pub(crate) struct MockHub {
    pub(crate) repo: Arc<Mutex<Repo>>,
    pub(crate) hub: Server,
    pub(crate) cdn: Server,
    pub(crate) cache: tempfile::TempDir,
}

/// Bytes that do not repeat soon.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A directory of a tiny model that transformers made.
pub(crate) fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

impl MockHub {
    /// A repository of 1,000,003 bytes in one file of weights, with everything that is fetched and
    /// a file that is not. Its config.json is a model's; the weights are noise.
    pub(crate) fn start() -> Self {
        let small = |text: &str| RepoFile { content: text.into(), large: false };
        let large = |content: Vec<u8>| RepoFile { content, large: true };
        let config = std::fs::read(fixture("a_qwen3_tied_gqa").join("config.json")).unwrap();
        Self::with_files(BTreeMap::from([
            ("README.md".to_owned(), small("not fetched")),
            ("config.json".to_owned(), RepoFile { content: config, large: false }),
            ("generation_config.json".to_owned(), small("{}")),
            ("tokenizer.json".to_owned(), large(noise(5_000))),
            ("tokenizer_config.json".to_owned(), small("{ }")),
            ("model.safetensors".to_owned(), large(noise(1_000_003))),
        ]))
    }

    /// A repository with the files of a directory; safetensors are in large-file storage.
    pub(crate) fn with_model(dir: &Path) -> Self {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.filter(|path| path.is_file()).map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let large = name.ends_with(".safetensors");
            (name, RepoFile { content: std::fs::read(&path).unwrap(), large })
        });
        Self::with_files(files.collect())
    }

    pub(crate) fn with_files(files: BTreeMap<String, RepoFile>) -> Self {
        let commit = "0123456789abcdef0123456789abcdef01234567".to_owned();
        let faults = HashMap::new();
        let repo =
            Arc::new(Mutex::new(Repo { commit, files, faults, renamed_from: None, needs_token: false }));
        let for_cdn = repo.clone();
        let cdn = Server::start(move |seen| serve_cdn(&mut for_cdn.lock().unwrap(), seen));
        let (for_hub, cdn_url) = (repo.clone(), cdn.url());
        let hub = Server::start(move |seen| serve_hub(&mut for_hub.lock().unwrap(), &cdn_url, seen));
        Self { repo, hub, cdn, cache: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn options(&self) -> HubOptions {
        HubOptions {
            endpoint: self.hub.url(),
            retry: RetryPolicy {
                attempts: 3,
                first_delay: Duration::from_millis(2),
                max_delay: Duration::from_millis(20),
            },
            stall_timeout: Duration::from_secs(20),
            ..HubOptions::new(self.cache.path())
        }
    }

    pub(crate) fn resolve(&self) -> Result<ModelFiles> {
        resolve(ID, &self.options(), &mut |_| {})
    }

    /// The events, as text.
    pub(crate) fn resolve_with_events(&self) -> (Result<ModelFiles>, Vec<String>) {
        let mut events = Vec::new();
        let files =
            resolve(ID, &self.options(), &mut |event: HubEvent<'_>| events.push(format!("{event:?}")));
        (files, events)
    }

    pub(crate) fn fault(&self, request: &str, fault: Fault) {
        self.repo.lock().unwrap().faults.entry(request.into()).or_default().push_back(fault);
    }

    pub(crate) fn blob(&self, file: &str) -> std::path::PathBuf {
        let etag = self.repo.lock().unwrap().files[file].etag();
        self.cache.path().join("models--acme--tiny-1/blobs").join(etag)
    }

    /// The files must be what the repository holds.
    pub(crate) fn check_content(&self, paths: &[&Path]) {
        let repo = self.repo.lock().unwrap();
        for path in paths {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(std::fs::read(path).unwrap() == repo.files[name].content, "{name} differs");
        }
    }

    /// Requests to the download host, as `range` headers.
    pub(crate) fn cdn_ranges(&self) -> Vec<Option<String>> {
        self.cdn.take_log().iter().map(|seen| seen.header("range").map(str::to_owned)).collect()
    }
}

fn serve_hub(repo: &mut Repo, cdn: &str, seen: &Seen) -> Reply {
    if repo.needs_token && seen.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return Reply::new(401)
            .header("x-error-code", "RepoNotFound")
            .header("x-error-message", "Repository not found");
    }
    if let Some(old) = &repo.renamed_from
        && seen.target.contains(old.as_str())
    {
        return Reply::new(307).header("location", seen.target.replace(old.as_str(), ID));
    }
    if let Some(revision) = seen.target.strip_prefix(&format!("/api/models/{ID}/revision/")) {
        if let Some(Fault::Instead(reply)) = next_fault(repo, "GET") {
            return reply;
        }
        if revision != "main" && revision != repo.commit && revision != "refs%2Fpr%2F1" {
            return Reply::new(404).header("x-error-code", "RevisionNotFound");
        }
        let siblings: Vec<_> =
            repo.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        return Reply::new(200)
            .body(serde_json::json!({ "sha": repo.commit, "siblings": siblings }).to_string());
    }
    let file = seen.target.strip_prefix(&format!("/{ID}/resolve/{}/", repo.commit)).map(str::to_owned);
    let Some((name, file)) = file.and_then(|name| repo.files.get(&name).cloned().map(|file| (name, file)))
    else {
        return Reply::new(404).header("x-error-code", "RepoNotFound");
    };
    let request = format!("{} {name}", seen.method);
    if !file.large {
        return content(repo, &request, &file, seen).header("etag", format!("\"{}\"", file.etag()));
    }
    if let Some(Fault::Instead(reply)) = next_fault(repo, &request) {
        return reply;
    }
    Reply::new(302)
        .header("location", format!("{cdn}/{name}?signature=x"))
        .header("x-linked-etag", format!("\"{}\"", file.etag()))
        .header("x-linked-size", file.content.len())
        .header("etag", "\"of-the-pointer\"")
}

fn serve_cdn(repo: &mut Repo, seen: &Seen) -> Reply {
    let name = seen.target.trim_start_matches('/').trim_end_matches("?signature=x").to_owned();
    let file = repo.files[&name].clone();
    content(repo, &format!("CDN {name}"), &file, seen).header("etag", "\"its-own\"")
}

fn content(repo: &mut Repo, request: &str, file: &RepoFile, seen: &Seen) -> Reply {
    let fault = next_fault(repo, request);
    let mut body = file.content.clone();
    let start: Option<usize> =
        seen.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let reply = match (start, &fault) {
        (_, Some(Fault::Instead(reply))) => return reply.clone(),
        (Some(start), fault) if !matches!(fault, Some(Fault::IgnoreRange)) => {
            let total = body.len();
            if start >= total {
                return Reply::new(416).header("content-range", format!("bytes */{total}"));
            }
            body.drain(..start);
            Reply::new(206).header("content-range", format!("bytes {start}-{}/{total}", total - 1))
        }
        _ => Reply::new(200),
    };
    let mut reply = reply;
    match fault {
        Some(Fault::CutAt(len)) => reply.cut_at = Some(len),
        Some(Fault::StallAt(len)) => (reply.cut_at, reply.stall) = (Some(len), Some(Duration::from_mins(1))),
        Some(Fault::Corrupt) => body[0] ^= 1,
        _ => {}
    }
    if seen.method == "HEAD" {
        return reply.header("content-length", body.len());
    }
    reply.body(body)
}

fn next_fault(repo: &mut Repo, request: &str) -> Option<Fault> {
    repo.faults.get_mut(request).and_then(VecDeque::pop_front)
}
