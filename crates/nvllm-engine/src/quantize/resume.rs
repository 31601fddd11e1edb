//! What a run leaves for the next one, should it be ended: complete files of weights, and a note of
//! what they are and what their bytes hash to.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::options::QuantizeOptions;
use super::plan::{Plan, Shard};
use crate::hub::ModelFiles;
use crate::out_dir::{failed, make_empty};
use crate::{EngineError, Result, checkpoint};

/// The note. It is there while the directory is not whole.
const NOTE: &str = ".nvllm-quantize.json";

/// A directory that is being filled.
pub(super) struct Work {
    out: PathBuf,
    /// Whether this run has made the directory.
    is_new: bool,
    note: Note,
}

#[derive(Serialize, Deserialize)]
struct Note {
    /// Hash of all that the files depend on.
    of: String,
    /// SHA-256 of each complete file.
    complete: BTreeMap<String, String>,
}

impl Work {
    /// Begins in a directory that is new or empty, or goes on in one that a run of the same plan
    /// has left.
    ///
    /// Errors if it holds anything else.
    pub(super) fn begin(
        out: &Path,
        plan: &Plan,
        files: &ModelFiles,
        options: &QuantizeOptions,
    ) -> Result<Self> {
        let of = fingerprint(plan, files, options)?;
        let is_new = !out.exists();
        if let Ok(text) = std::fs::read(out.join(NOTE)) {
            let note: Option<Note> = serde_json::from_slice(&text).ok();
            let note = note.filter(|note| note.of == of).ok_or_else(|| EngineError::WriteFile {
                path: out.to_path_buf(),
                problem: "it holds an unfinished checkpoint of another model or with other options; remove it, or give \
                          a new directory"
                    .into(),
            })?;
            return Ok(Self { out: out.to_path_buf(), is_new, note });
        }
        make_empty(out)?;
        let this = Self { out: out.to_path_buf(), is_new, note: Note { of, complete: BTreeMap::new() } };
        this.save().inspect_err(|_| this.leave())?;
        Ok(this)
    }

    /// Where a file of weights lies.
    pub(super) fn path(&self, shard: &Shard) -> PathBuf {
        self.out.join(&shard.file)
    }

    /// Whether an earlier run has completed the file, and its bytes are still those.
    pub(super) fn has(&self, shard: &Shard) -> Result<bool> {
        let path = self.path(shard);
        match self.note.complete.get(&shard.file) {
            Some(hash) if path.is_file() => Ok(sha256(&path)? == *hash),
            _ => Ok(false),
        }
    }

    /// Notes that the file is complete.
    pub(super) fn complete(&mut self, shard: &Shard) -> Result<()> {
        let hash = sha256(&self.path(shard))?;
        self.note.complete.insert(shard.file.clone(), hash);
        self.save()
    }

    /// The directory is whole.
    pub(super) fn end(self) -> Result<()> {
        let note = self.out.join(NOTE);
        std::fs::remove_file(&note).map_err(|cause| failed(&note, &cause))
    }

    /// Leaves what a later run can use: nothing, if no file is complete.
    pub(super) fn leave(&self) {
        if self.note.complete.is_empty() {
            let _ = std::fs::remove_file(self.out.join(NOTE));
            if self.is_new {
                // Does nothing to a directory that holds what is somebody else's.
                let _ = std::fs::remove_dir(&self.out);
            }
        }
    }

    fn save(&self) -> Result<()> {
        let (path, part) = (self.out.join(NOTE), self.out.join(format!("{NOTE}.part")));
        let text = serde_json::to_vec(&self.note).unwrap_or_default();
        let saved = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &path));
        saved.map_err(|cause| {
            let _ = std::fs::remove_file(&part);
            failed(&path, &cause)
        })
    }
}

/// Hash of all that decides what the files hold. Of the weights their sizes and times count: to
/// read them all takes as long as to make the files.
fn fingerprint(plan: &Plan, files: &ModelFiles, options: &QuantizeOptions) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(format!("{options:?}"));
    hash.update(checkpoint::read(&files.config)?);
    for path in files.weights.paths() {
        let read = |cause| EngineError::ReadFile { path: path.clone(), cause };
        let found = std::fs::metadata(path).map_err(read)?;
        hash.update(format!("{:?} {} {:?}", path.file_name(), found.len(), found.modified().ok()));
    }
    plan.shards.iter().for_each(|shard| hash.update(format!("{} {}", shard.file, shard.bytes)));
    Ok(hex(hash))
}

fn sha256(path: &Path) -> Result<String> {
    let read = |cause| EngineError::ReadFile { path: path.to_path_buf(), cause };
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path).map_err(read)?, &mut hash).map_err(read)?;
    Ok(hex(hash))
}

fn hex(hash: Sha256) -> String {
    format!("{:x}", hash.finalize())
}
