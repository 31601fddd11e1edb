//! Removing models from the cache.
//!
//! Nothing outside the cache is touched, whatever the links in it say: a repository whose
//! directories are themselves links is refused, and of a blob only the entry in `blobs` is removed.
//! Refs go before snapshots and snapshots before blobs, so that whatever interrupts it leaves no
//! name of something that is gone.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::layout::{self, Layout};
use super::name::{HubId, is_part};
use super::options::HubOptions;
use super::{address, diagnose, shared};
use crate::{EngineError, Result};

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// `org/name`.
    pub id: String,
    /// Commits whose snapshots are gone.
    pub commits: Vec<String>,
    /// Whether nothing of the repository is left.
    pub whole: bool,
    /// Bytes that were freed.
    pub bytes: u64,
}

/// Fewer digits of a commit name none.
const MIN_ABBREVIATION: usize = 6;

/// Removes a repository (`org/name`) or one revision of it (`org/name@revision`: branch, tag,
/// commit, or the first digits of one) from the cache, with the blobs that no other revision uses.
/// A single GGUF file of a repository (`org/name:TYPE`) is not removed by itself.
///
/// # Errors
/// [`EngineError::ModelName`] if it names no repository, or one file of it;
/// [`EngineError::NothingToRemove`] if the cache has none; [`EngineError::CacheInUse`] while it is
/// fetched; [`EngineError::WrongFile`] where the cache is not laid out as expected;
/// [`EngineError::RemoveFile`] if the system refuses.
pub fn remove(model: &str, options: &HubOptions) -> Result<Removed> {
    let (id, revision) = parse(model, options)?;
    let repo = options.cache_dir.join(format!("models--{}", id.replace('/', "--")));
    let absent = |problem: String| EngineError::NothingToRemove {
        model: model.to_owned(),
        cache_dir: options.cache_dir.clone(),
        problem,
    };
    if repo.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        let near = diagnose::nearest_in_cache(&id, options);
        return Err(absent(match near {
            Some(near) => format!("did you mean {near}?"),
            None if Path::new(model).exists() => {
                "only what was fetched is removed, not other directories".into()
            }
            None => "`nvllm list` shows what is".into(),
        }));
    }
    for dir in [repo.clone(), repo.join("refs"), repo.join("snapshots"), repo.join("blobs")] {
        if dir.is_symlink() {
            let problem = "is a link, which is not followed here: remove it by hand".into();
            return Err(EngineError::WrongFile { path: dir, problem });
        }
    }
    let _locks =
        lock_all(&options.cache_dir.join(".locks").join(repo.file_name().unwrap_or_default()), model)?;
    let layout = Layout::read(&repo);
    let commits = match &revision {
        None => layout.snapshots.keys().cloned().collect(),
        Some(revision) => BTreeSet::from([commit_of(&layout, revision).map_err(absent)?]),
    };
    let whole = layout.snapshots.keys().all(|commit| commits.contains(commit));
    let bytes = if whole {
        remove_repo(&options.cache_dir, &repo)?
    } else {
        remove_revisions(&options.cache_dir, &repo, &layout, &commits)?
    };
    Ok(Removed { id, commits: commits.into_iter().collect(), whole, bytes })
}

/// `org/name` (or a name without an organisation, as the first models had), and the revision.
fn parse(model: &str, options: &HubOptions) -> Result<(String, Option<String>)> {
    let problem = |problem| EngineError::ModelName { model: model.into(), problem };
    let text = model.trim_end_matches('/');
    let (name, revision) =
        text.split_once('@').map_or((text, None), |(name, rev)| (name, Some(rev.to_owned())));
    if is_part(name) {
        return Ok((name.to_owned(), revision));
    }
    let id = match address::parse(text, &options.endpoint) {
        Some(id) => id,
        None if diagnose::looks_like_path(text) => {
            Err("only models in the cache are removed, by their id (org/name); `nvllm list` shows them"
                .into())
        }
        None => HubId::parse(text),
    };
    let id = id.map_err(problem)?;
    if let Some(variant) = id.variant() {
        let repo = id.repo();
        return Err(problem(format!(
            "one file of a repository ({variant}) is not removed by itself; give {repo} to remove all of it, or \
             {repo}@REVISION"
        )));
    }
    Ok((id.repo(), id.named_revision().map(str::to_owned)))
}

/// The commit that a revision names in the cache; the error says which there are.
fn commit_of(layout: &Layout, revision: &str) -> Result<String, String> {
    let named = layout.refs.get(revision).filter(|commit| layout.snapshots.contains_key(*commit));
    if let Some(commit) = named.or_else(|| layout.snapshots.get_key_value(revision).map(|(commit, _)| commit))
    {
        return Ok(commit.clone());
    }
    let digits = revision.to_ascii_lowercase();
    let abbreviated: Vec<_> = layout.snapshots.keys().filter(|commit| commit.starts_with(&digits)).collect();
    if let [commit] = abbreviated.as_slice()
        && revision.len() >= MIN_ABBREVIATION
    {
        return Ok((*commit).clone());
    }
    let there = layout.snapshots.keys().map(|commit| {
        let refs = layout.refs_of(commit).join(", ");
        let short = commit.get(..8).unwrap_or(commit);
        if refs.is_empty() { short.to_owned() } else { format!("{refs} ({short})") }
    });
    let there = there.collect::<Vec<_>>().join(", ");
    let there = if there.is_empty() { "no complete ones".into() } else { there };
    Err(format!("it has no revision `{revision}`; there are {there}"))
}

/// Locks every blob's lock, so that no download runs.
fn lock_all(locks: &Path, model: &str) -> Result<Vec<File>> {
    let mut held = Vec::new();
    for path in layout::files_below(locks) {
        // A lock that this user may not open is not one that this user's downloads hold.
        let Ok(file) = File::options().write(true).open(&path) else { continue };
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(EngineError::CacheInUse { model: model.to_owned() });
        }
        held.push(file);
    }
    Ok(held)
}

/// Bytes that removing a file frees, and the blob of the shared store that it may have been the
/// last link to.
fn freed(cache_dir: &Path, path: &Path) -> (u64, Option<PathBuf>) {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => (0, shared::target(cache_dir, path)),
        Ok(metadata) => (metadata.len(), None),
        Err(_) => (0, None),
    }
}

fn remove_repo(cache_dir: &Path, repo: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut shared = Vec::new();
    for path in layout::files_below(repo) {
        let (size, target) = freed(cache_dir, &path);
        bytes += size;
        shared.extend(target);
    }
    for dir in [repo.join("refs"), repo.join("snapshots"), repo.to_path_buf()] {
        remove_dir(&dir)?;
    }
    Ok(bytes + sweep(cache_dir, shared))
}

fn remove_revisions(
    cache_dir: &Path,
    repo: &Path,
    layout: &Layout,
    commits: &BTreeSet<String>,
) -> Result<u64> {
    for (name, _) in layout.refs.iter().filter(|(_, commit)| commits.contains(*commit)) {
        remove_file(&repo.join("refs").join(name))?;
        // Directories of nested refs (refs/pr) that are empty now; `refs` itself may stay.
        let above = Path::new(name).ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty());
        above.for_each(|dir| drop(std::fs::remove_dir(repo.join("refs").join(dir))));
    }
    let (mut gone, mut kept) = (BTreeSet::new(), BTreeSet::new());
    let mut bytes = 0;
    for (commit, files) in &layout.snapshots {
        let removed = commits.contains(commit);
        for file in files {
            match &file.blob {
                Some(blob) if removed => drop(gone.insert(blob.as_str())),
                Some(blob) => drop(kept.insert(blob.as_str())),
                None if removed => bytes += freed(cache_dir, &file.path).0,
                None => {}
            }
        }
    }
    for commit in commits {
        remove_dir(&repo.join("snapshots").join(commit))?;
        remove_dir(&repo.join(".no_exist").join(commit))?;
    }
    let mut shared = Vec::new();
    for blob in gone.difference(&kept) {
        let path = repo.join("blobs").join(blob);
        let (size, target) = freed(cache_dir, &path);
        remove_file(&path)?;
        bytes += size;
        shared.extend(target);
    }
    Ok(bytes + sweep(cache_dir, shared))
}

fn sweep(cache_dir: &Path, targets: Vec<PathBuf>) -> u64 {
    targets.into_iter().map(|target| shared::sweep(cache_dir, &target)).sum()
}

/// Removes a directory if it is there; links in it are removed, not followed.
fn remove_dir(dir: &Path) -> Result<()> {
    gone(dir, std::fs::remove_dir_all(dir))
}

fn remove_file(path: &Path) -> Result<()> {
    gone(path, std::fs::remove_file(path))
}

fn gone(path: &Path, removed: std::io::Result<()>) -> Result<()> {
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(EngineError::RemoveFile { path: path.to_path_buf(), cause: e })
        }
        _ => Ok(()),
    }
}
