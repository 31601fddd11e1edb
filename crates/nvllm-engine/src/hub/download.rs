//! One file into the cache: resumed, verified, linked.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use ureq::Body;
use ureq::http::{Response, StatusCode};

use super::cache::{RepoCache, create_parent, disk_error};
use super::client::{Attempts, Client, Failure, FileInfo, header};
use super::event::{HubEvent, Progress};
use super::name::HubId;
use crate::{EngineError, Result};

/// A checksum that is wrong twice is not a passing fault of the line.
const MAX_DOWNLOADS: u32 = 2;

/// Enough of a GGUF file to see what model it is of.
const START_LEN: u64 = 64 << 10;

const BUFFER_LEN: usize = 256 << 10;

/// A file of a commit that is to be in its snapshot, and what the hub says about it.
pub(super) struct Wanted {
    file: String,
    url: String,
    /// For messages.
    what: String,
    info: FileInfo,
}

impl Wanted {
    /// Asks the hub.
    pub(super) fn ask(
        client: &Client,
        id: &HubId,
        commit: &str,
        file: &str,
        progress: &mut Progress<'_>,
    ) -> Result<Self> {
        let url = client.file_url(id, commit, file);
        let what = format!("{file} of {id} ({url})");
        let mut attempts = Attempts { what: &what, policy: client.retry, failures: 0 };
        let info = loop {
            match client.file_info(id, &url, &what) {
                Ok(info) => break info,
                Err(failure) => attempts.after(failure, progress)?,
            }
        };
        Ok(Self { file: file.to_owned(), url, what, info })
    }

    /// Its name in the repository.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// The first bytes of the file, read and not kept.
    pub(super) fn start(&self, client: &Client, id: &HubId, progress: &mut Progress<'_>) -> Result<Vec<u8>> {
        let mut attempts = Attempts { what: &self.what, policy: client.retry, failures: 0 };
        loop {
            let read = client.get(id, &self.url, &self.what, 0).and_then(|response| {
                let mut start = Vec::new();
                let body = response.into_body().into_with_config().limit(u64::MAX).reader();
                let read = body.take(START_LEN).read_to_end(&mut start);
                read.map(|_| start).map_err(|e| Failure::passing(format!("the connection broke: {e}")))
            });
            match read {
                Ok(start) => return Ok(start),
                Err(failure) => attempts.after(failure, progress)?,
            }
        }
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        self.info.len
    }

    /// Downloads it, unless its blob is here, and links it.
    pub(super) fn get(
        &self,
        client: &Client,
        cache: &RepoCache,
        id: &HubId,
        commit: &str,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let (file, info) = (self.file.as_str(), &self.info);
        let _lock = cache.lock(&info.etag, &mut || progress(HubEvent::Waiting { file }))?;
        let blob = cache.blob(&info.etag);
        if !blob.is_file() {
            let download = Download { client, id, url: &self.url, what: &self.what, file, info };
            download.run(&blob, progress)?;
        }
        cache.link(&info.etag, commit, file)?;
        progress(HubEvent::Fetched { file, total: info.len });
        Ok(())
    }
}

/// What is to be downloaded.
struct Download<'a> {
    client: &'a Client,
    id: &'a HubId,
    url: &'a str,
    what: &'a str,
    file: &'a str,
    info: &'a FileInfo,
}

impl Download<'_> {
    fn run(&self, blob: &Path, progress: &mut Progress<'_>) -> Result<()> {
        let mut partial = Partial::open(with_suffix(blob, ".incomplete"), self.info)?;
        let mut attempts = Attempts { what: self.what, policy: self.client.retry, failures: 0 };
        let mut most = partial.len;
        let mut num_downloads = 1;
        loop {
            progress(HubEvent::Progress { file: self.file, done: partial.len, total: self.info.len });
            if partial.len < self.info.len
                && let Err(failure) = self.transfer(&mut partial, progress)
            {
                if partial.len > most {
                    most = partial.len;
                    attempts.failures = 0;
                }
                attempts.after(failure, progress)?;
                continue;
            }
            let (expected, actual) = (self.info.etag.to_ascii_lowercase(), partial.digest());
            if actual.as_ref().is_none_or(|actual| *actual == expected) {
                return partial.into_blob(blob);
            }
            if num_downloads == MAX_DOWNLOADS {
                let path = &partial.path;
                std::fs::remove_file(path).map_err(|e| disk_error(path, e, 0))?;
                let (what, actual) = (self.what.to_owned(), actual.unwrap_or_default());
                return Err(EngineError::Checksum { what, attempts: num_downloads, expected, actual });
            }
            num_downloads += 1;
            most = 0;
            partial.restart()?;
            let (reason, delay) =
                ("the checksum is wrong: starting this file again", std::time::Duration::ZERO);
            progress(HubEvent::Retrying { what: self.what, reason, delay });
        }
    }

    /// One request: appends the bytes of its reply.
    fn transfer(&self, partial: &mut Partial, progress: &mut Progress<'_>) -> Result<(), Failure> {
        let response = self.client.get(self.id, self.url, self.what, partial.len)?;
        if !continues_at(&response, partial.len) {
            // The server sends the whole file, or something else than was asked for.
            partial.restart().map_err(Failure::Final)?;
            if response.status() != StatusCode::OK {
                return Err(Failure::passing("the server cannot continue where the last download stopped"));
            }
        }
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; BUFFER_LEN];
        while partial.len < self.info.len {
            let n = match body.read(&mut buffer) {
                Ok(0) => {
                    let (done, total) = (partial.len, self.info.len);
                    return Err(Failure::passing(format!(
                        "the connection ended after {done} of {total} bytes"
                    )));
                }
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(Failure::passing(format!("the connection broke: {e}"))),
            };
            let wanted = n.min(usize::try_from(self.info.len - partial.len).unwrap_or(n));
            partial.append(&buffer[..wanted], self.info.len).map_err(Failure::Final)?;
            progress(HubEvent::Progress { file: self.file, done: partial.len, total: self.info.len });
        }
        Ok(())
    }
}

/// Whether the body begins at the given byte of the file.
fn continues_at(response: &Response<Body>, start: u64) -> bool {
    match response.status() {
        StatusCode::OK => start == 0,
        StatusCode::PARTIAL_CONTENT => {
            let range = header(response.headers(), "content-range").unwrap_or_default();
            range.strip_prefix("bytes ").and_then(|range| range.split('-').next())
                == Some(start.to_string().as_str())
        }
        _ => false,
    }
}

/// A file that is not complete yet, and the digest of what there is of it.
struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    total: u64,
    hasher: Hasher,
}

impl Partial {
    /// Opens what an earlier download left, or begins.
    fn open(path: PathBuf, info: &FileInfo) -> Result<Self> {
        create_parent(&path)?;
        let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = open.map_err(|e| disk_error(&path, e, info.len))?;
        let mut partial = Self { path, file, len: 0, total: info.len, hasher: Hasher::new(info) };
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            let n = partial.file.read(&mut buffer).map_err(|e| disk_error(&partial.path, e, info.len))?;
            if n == 0 {
                break;
            }
            partial.len += n as u64;
            partial.hasher.update(&buffer[..n]);
            if partial.len > info.len {
                partial.restart()?;
                break;
            }
        }
        Ok(partial)
    }

    fn append(&mut self, bytes: &[u8], total: u64) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|e| disk_error(&self.path, e, total - self.len))?;
        self.len += bytes.len() as u64;
        self.hasher.update(bytes);
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|e| disk_error(&self.path, e, self.total))?;
        self.len = 0;
        self.hasher.restart(self.total);
        Ok(())
    }

    /// The digest in hexadecimal; `None` if the etag is not one.
    fn digest(&self) -> Option<String> {
        match &self.hasher {
            Hasher::Sha256(hasher) => Some(format!("{:x}", hasher.clone().finalize())),
            Hasher::GitSha1(hasher) => Some(format!("{:x}", hasher.clone().finalize())),
            Hasher::Unknown => None,
        }
    }

    /// Gives the complete file its name.
    fn into_blob(self, blob: &Path) -> Result<()> {
        let kept = self.file.sync_data().and_then(|()| std::fs::rename(&self.path, blob));
        kept.map_err(|e| disk_error(&self.path, e, 0))
    }
}

/// The digest that an etag is.
enum Hasher {
    /// Files in large-file storage.
    Sha256(Sha256),
    /// Files in the git repository: SHA-1 over `blob <length>\0` and the content.
    GitSha1(Sha1),
    /// Mirrors that make up their own etags; the length is all there is to check.
    Unknown,
}

impl Hasher {
    fn new(info: &FileInfo) -> Self {
        let hexadecimal = info.etag.bytes().all(|b| b.is_ascii_hexdigit());
        let mut hasher = match info.etag.len() {
            64 if hexadecimal => Self::Sha256(Sha256::new()),
            40 if hexadecimal => Self::GitSha1(Sha1::new()),
            _ => Self::Unknown,
        };
        hasher.restart(info.len);
        hasher
    }

    fn restart(&mut self, total: u64) {
        match self {
            Self::Sha256(hasher) => hasher.reset(),
            Self::GitSha1(hasher) => {
                hasher.reset();
                hasher.update(format!("blob {total}\0"));
            }
            Self::Unknown => {}
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitSha1(hasher) => hasher.update(bytes),
            Self::Unknown => {}
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(etag: &str, len: u64) -> FileInfo {
        FileInfo { etag: etag.into(), len }
    }

    #[test]
    fn digests_are_those_of_git_and_of_large_file_storage() {
        let dir = tempfile::tempdir().unwrap();
        for (etag, content) in [
            // `printf 'hello\n' | git hash-object --stdin`, `printf 'hello\n' | sha256sum`
            ("ce013625030ba8dba906f756967f9e9ca394464a", "hello\n"),
            ("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", "hello\n"),
            // the empty file
            ("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", ""),
        ] {
            let info = info(etag, content.len() as u64);
            let path = dir.path().join(etag);
            let mut partial = Partial::open(path.clone(), &info).unwrap();
            partial.append(content.as_bytes(), info.len).unwrap();
            assert_eq!(partial.digest().as_deref(), Some(etag));
            let mut again = Partial::open(path, &info).unwrap();
            assert_eq!((again.len, again.digest().as_deref()), (info.len, Some(etag)), "resumed");
            again.restart().unwrap();
            again.append(content.as_bytes(), info.len).unwrap();
            assert_eq!(again.digest().as_deref(), Some(etag), "restarted");
        }
        assert!(Partial::open(dir.path().join("x"), &info("abc-1", 3)).unwrap().digest().is_none());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_told_with_what_is_missing() {
        let path = PathBuf::from("/dev/full");
        let file = File::options().write(true).open(&path).unwrap();
        let info = info("etag", 1000);
        let mut partial = Partial { path, file, len: 0, total: 1000, hasher: Hasher::new(&info) };
        let message = partial.append(b"abc", 1000).unwrap_err().to_string();
        assert!(
            message.starts_with("no space left for /dev/full (1000 bytes still to come); free space"),
            "{message}"
        );
    }
}
