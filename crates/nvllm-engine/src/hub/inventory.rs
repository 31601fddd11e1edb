//! The models in the cache, and whether they can be run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::files::ModelFiles;
use super::gguf;
use super::layout::{self, Layout, SnapshotFile};
use crate::{Model, Result};

/// A repository in the cache.
#[derive(Debug)]
pub struct CachedModel {
    /// `org/name`.
    pub id: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Bytes of its files, those that revisions share once.
    pub bytes: u64,
    /// Bytes of downloads that stopped, which go on when it is fetched again.
    pub incomplete_bytes: u64,
    /// Its snapshots, by commit.
    pub revisions: Vec<CachedRevision>,
}

/// A snapshot in the cache.
#[derive(Debug)]
pub struct CachedRevision {
    /// The commit.
    pub commit: String,
    /// Branches, tags and pull requests that named it last.
    pub refs: Vec<String>,
    /// The directory of its files.
    pub dir: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    /// Its architecture, or why it cannot be run. `None` where all that can be run is `variants`.
    pub architecture: Option<Result<String>>,
    /// Its GGUF models, sorted by file.
    pub variants: Vec<CachedVariant>,
}

/// A GGUF model of a snapshot.
#[derive(Debug)]
pub struct CachedVariant {
    /// What it is called after `org/name:`: its type, or its file where others have that type too.
    pub name: String,
    /// Its file in the snapshot, or the first of its parts.
    pub file: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Its architecture, or why it cannot be run.
    pub architecture: Result<String>,
}

/// The models in a cache, by id. Headers of weights are read, weights are not. A cache that is not
/// there holds none.
pub fn list(cache_dir: &Path) -> Vec<CachedModel> {
    layout::models(cache_dir).into_iter().map(|(id, dir)| describe(id, dir)).collect()
}

fn describe(id: String, dir: PathBuf) -> CachedModel {
    let layout = Layout::read(&dir);
    let revisions = layout.snapshots.iter().map(|(commit, files)| {
        let snapshot = dir.join("snapshots").join(commit);
        let variants = variants(&snapshot);
        let checked = || ModelFiles::in_snapshot(&snapshot, None).and_then(|files| Model::check(&files));
        CachedRevision {
            commit: commit.clone(),
            refs: layout.refs_of(commit),
            bytes: bytes(files),
            architecture: (variants.is_empty() || ModelFiles::is_hf_layout(&snapshot)).then(checked),
            variants,
            dir: snapshot,
        }
    });
    let incomplete = layout::files_below(&dir.join("blobs")).into_iter();
    let incomplete = incomplete.filter(|path| path.extension().is_some_and(|end| end == "incomplete"));
    CachedModel {
        bytes: bytes(layout.snapshots.values().flatten()),
        incomplete_bytes: incomplete.filter_map(|path| Some(path.symlink_metadata().ok()?.len())).sum(),
        revisions: revisions.collect(),
        id,
        dir,
    }
}

/// The GGUF models of a snapshot.
fn variants(snapshot: &Path) -> Vec<CachedVariant> {
    let models = ModelFiles::gguf_models(snapshot);
    let described = models.iter().zip(gguf::names(&models)).map(|(model, name)| {
        let files = model.files();
        let bytes = files.iter().filter_map(|file| Some(snapshot.join(file).metadata().ok()?.len())).sum();
        let architecture = ModelFiles::gguf_in(snapshot, &files).and_then(|files| Model::check(&files));
        CachedVariant { name, file: model.first().to_owned(), bytes, architecture }
    });
    described.collect()
}

/// Bytes of files, each blob once.
fn bytes<'a>(files: impl IntoIterator<Item = &'a SnapshotFile>) -> u64 {
    let mut seen = BTreeSet::new();
    let files = files.into_iter().filter(|file| file.blob.as_ref().is_none_or(|blob| seen.insert(blob)));
    files.filter_map(|file| Some(file.path.metadata().ok()?.len())).sum()
}
