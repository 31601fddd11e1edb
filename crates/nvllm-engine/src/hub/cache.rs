//! The hub's cache on disk; the layout is in the parent module's description.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::files::{GGUF, HubOrigin, ModelFiles};
use super::name::{HubId, is_commit};
use crate::{EngineError, Result};

/// One repository in the cache.
#[derive(Debug)]
pub(super) struct RepoCache {
    /// The whole cache.
    root: PathBuf,
    /// `models--org--name`.
    repo: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache_dir: &Path, id: &HubId) -> Self {
        Self {
            root: cache_dir.to_path_buf(),
            repo: cache_dir.join(id.dir_name()),
            locks: cache_dir.join(".locks").join(id.dir_name()),
        }
    }

    /// The snapshot that the revision named last, if it is complete.
    pub(super) fn snapshot(&self, id: &HubId) -> Result<ModelFiles> {
        let commit = if id.is_commit() {
            id.revision().to_owned()
        } else {
            let path = self.repo.join("refs").join(id.revision());
            let shown = path.display();
            let problem = match std::fs::read_to_string(&path) {
                Ok(text) if is_commit(text.trim()) => Ok(text.trim().to_owned()),
                Ok(_) => Err(format!("{shown} is damaged: it does not hold a commit")),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    Err(format!("it was never completely fetched: no {shown}"))
                }
                Err(e) => Err(format!("{shown} cannot be read: {e}")),
            };
            problem.map_err(|problem| self.not_cached(id, problem))?
        };
        self.snapshot_of_commit(id, &commit).map_err(|e| match e {
            // Says what there is instead.
            EngineError::MissingFile { file, advice, .. } if file == GGUF => self.not_cached(id, advice),
            EngineError::MissingFile { file, .. } => {
                self.not_cached(id, format!("{file} of commit {commit} is missing"))
            }
            // A link whose blob is gone.
            EngineError::WrongFile { path, .. } if !path.exists() => {
                let file = path.file_name().unwrap_or_default().display();
                self.not_cached(id, format!("{file} of commit {commit} is missing"))
            }
            other => other,
        })
    }

    fn not_cached(&self, id: &HubId, problem: String) -> EngineError {
        EngineError::NotCached { model: id.to_string(), cache_dir: self.root.clone(), problem }
    }

    pub(super) fn snapshot_of_commit(&self, id: &HubId, commit: &str) -> Result<ModelFiles> {
        let files = ModelFiles::in_snapshot(&self.snapshot_dir(commit), id.variant())?;
        Ok(from_hub(files, id, commit))
    }

    /// The GGUF model of these files of a commit.
    pub(super) fn gguf_of_commit(&self, id: &HubId, commit: &str, files: &[String]) -> Result<ModelFiles> {
        Ok(from_hub(ModelFiles::gguf_in(&self.snapshot_dir(commit), files)?, id, commit))
    }

    pub(super) fn snapshot_dir(&self, commit: &str) -> PathBuf {
        self.repo.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.repo.join("blobs").join(etag)
    }

    /// Records what commit a revision names now; done once its snapshot is complete.
    pub(super) fn write_ref(&self, id: &HubId, commit: &str) -> Result<()> {
        if id.is_commit() {
            return Ok(());
        }
        let path = self.repo.join("refs").join(id.revision());
        if std::fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        create_parent(&path)?;
        let temporary = temporary_beside(&path);
        let written = File::create_new(&temporary).and_then(|mut file| file.write_all(commit.as_bytes()));
        written
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|e| disk_error(&path, e, commit.len() as u64))
    }

    /// Makes a blob appear as a file of a snapshot. Called under the blob's lock.
    pub(super) fn link(&self, etag: &str, commit: &str, file: &str) -> Result<()> {
        let link = self.snapshot_dir(commit).join(file);
        if link.is_file() {
            return Ok(());
        }
        create_parent(&link)?;
        // From a folder of the snapshot the way is longer.
        let target =
            Path::new("../..").join("../".repeat(file.matches('/').count())).join("blobs").join(etag);
        make_link(&target, &self.blob(etag), &link).map_err(|e| disk_error(&link, e, 0))
    }

    /// Waits until no other process works on the blob; `waiting` is called if one does. The lock
    /// ends with the file.
    pub(super) fn lock(&self, etag: &str, waiting: &mut dyn FnMut()) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(|e| disk_error(&path, e, 0))?;
        let locked = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock()
            }
            Err(TryLockError::Error(e)) => Err(e),
            Ok(()) => Ok(()),
        };
        match locked {
            // Network file systems without locks: two downloads at once only waste the second's
            // time.
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(file),
            Err(e) => Err(disk_error(&path, e, 0)),
            Ok(()) => Ok(file),
        }
    }
}

fn from_hub(files: ModelFiles, id: &HubId, commit: &str) -> ModelFiles {
    ModelFiles { hub: Some(HubOrigin { id: id.clone(), commit: commit.to_owned() }), ..files }
}

/// Replaces a link that leads nowhere, too: another process never sees the file absent once it was
/// there.
#[cfg(unix)]
fn make_link(target: &Path, _blob: &Path, link: &Path) -> std::io::Result<()> {
    let temporary = temporary_beside(link);
    std::os::unix::fs::symlink(target, &temporary)?;
    std::fs::rename(&temporary, link)
}

/// Where links need privileges, the file itself is put there, as Python's hub client does.
#[cfg(not(unix))]
fn make_link(_target: &Path, blob: &Path, link: &Path) -> std::io::Result<()> {
    std::fs::rename(blob, link)
}

/// A name that no other thread or process writes to, to be renamed to `path`.
fn temporary_beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".tmp-{}-{count}", std::process::id()))
}

/// Makes the directory of a file in the cache.
pub(super) fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(|e| disk_error(parent, e, 0))
}

/// What a failed write to the cache means; `needed` bytes were still to come.
pub(super) fn disk_error(path: &Path, cause: std::io::Error, needed: u64) -> EngineError {
    match cause.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            EngineError::DiskFull { path: path.to_path_buf(), needed }
        }
        _ => EngineError::CacheUnwritable { path: path.to_path_buf(), cause },
    }
}
