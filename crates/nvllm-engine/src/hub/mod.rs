//! A model's name to the files on disk: a directory, a GGUF file, or a repository of a Hugging Face
//! hub.
//!
//! Repositories are fetched into the hub's standard cache, so that models downloaded by Python
//! tools are found here and the other way round:
//!
//! ```text
//! <cache_dir>/models--org--name/blobs/<etag>                    content, named by its checksum
//!                               blobs/<etag>.incomplete         a download that stopped; it goes on from there
//!                               refs/main                       the commit that a revision named when last seen
//!                               snapshots/<commit>/config.json  a link to ../../blobs/<etag>
//! <cache_dir>/.locks/models--org--name/<etag>.lock              held by the process that downloads the blob
//! ```
//!
//! A blob gets its name only after its checksum was verified, a snapshot is linked file by file,
//! and the ref is written last: whatever interrupts a download, the cache holds nothing wrong, and
//! offline use finds the last complete snapshot.
//!
//! The HTTP side is `ureq`, and the protocol is written out here, because the crates that speak it
//! leave out what a user notices: `hf-hub` 0.5 verifies no checksum, has no offline mode, sends the
//! access token along when it asks a download host for a file's size, and names partial files its
//! own way; 1.0 depends on a hundred crates and a C build.
//!
//! Only what the engine reads is fetched: configuration, tokenizer, template and safetensors, or
//! one GGUF model.

mod address;
mod cache;
mod client;
mod diagnose;
mod download;
mod event;
mod fetch;
mod file_names;
mod files;
mod gguf;
mod inventory;
mod layout;
mod name;
mod options;
mod remove;
mod shared;

use std::io::ErrorKind;
use std::path::Path;

pub use diagnose::most_similar;
pub use event::{HubEvent, Progress};
pub use files::{HubOrigin, ModelFiles, Weights};
pub use inventory::{CachedModel, CachedRevision, CachedVariant, list};
pub use name::HubId;
pub use options::{HubOptions, RetryPolicy};
pub use remove::{Removed, remove};

use crate::{EngineError, Result};
use cache::RepoCache;

/// Finds a model's files: those of a directory, a GGUF file, or those of the repository that
/// `org/name[:variant][@revision]` or an address of its page names, fetched if they are not in the
/// cache. A variant is the type or the name of a GGUF file; without one a repository's safetensors
/// are meant, and where it has none its only GGUF model, or the one of type `Q4_K_M`.
///
/// A revision that is not a commit is looked up at the hub each time; if the hub cannot be reached,
/// the snapshot it named last time is used and [`HubEvent::UsingCache`] says so. A full commit that
/// is in the cache needs no network where the cache alone tells that it is what was named: single
/// or indexed safetensors, or the GGUF file of a variant. A model that this build cannot run is
/// refused before its weights are fetched, as far as config.json or the beginning of a GGUF file
/// tells.
///
/// # Errors
/// [`EngineError::ModelName`] if it is none of them; [`EngineError::MissingFile`] and the others of
/// [`ModelFiles::in_directory`] for a directory; [`EngineError::HubRefused`],
/// [`EngineError::HubUnreachable`], [`EngineError::HubProtocol`], [`EngineError::Checksum`],
/// [`EngineError::DiskFull`], [`EngineError::CacheUnwritable`] from fetching;
/// [`EngineError::NotCached`] when offline; those of [`Model::check`](crate::Model::check).
pub fn resolve(model: &str, options: &HubOptions, progress: &mut Progress<'_>) -> Result<ModelFiles> {
    let path = Path::new(model);
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => return ModelFiles::in_directory(path),
        Ok(_) if diagnose::is_gguf_file(path) => return ModelFiles::gguf(path),
        Ok(_) => return Err(diagnose::no_model(model, path)),
        // Only absence makes a name what it may be otherwise.
        Err(e)
            if !matches!(
                e.kind(),
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename
            ) =>
        {
            return Err(EngineError::ReadFile { path: path.to_path_buf(), cause: e });
        }
        Err(_) => {}
    }
    let id = hub_id(model, options)?;
    let cache = RepoCache::new(&options.cache_dir, &id);
    let cached = cache.snapshot(&id);
    let settled = cached.as_ref().is_ok_and(|files| is_settled(&id, files));
    if options.offline || settled {
        return cached.map_err(|e| with_hint(e, &id, options));
    }
    fetch::fetch(&id, options, &cache, cached.ok(), progress).map_err(|e| with_hint(e, &id, options))
}

/// Whether the hub could add nothing to what is cached: always the same files, all of them here.
fn is_settled(id: &HubId, cached: &ModelFiles) -> bool {
    id.is_commit()
        && match cached.weights {
            Weights::Single(_) | Weights::Sharded { .. } => true,
            // No one says how many there are.
            Weights::Unindexed(_) => false,
            // Without a name, what the repository holds besides decides whether this is it.
            Weights::Gguf(_) => id.variant().is_some(),
        }
}

/// The repository that a name means which is not a directory.
fn hub_id(model: &str, options: &HubOptions) -> Result<HubId> {
    let name = |problem| EngineError::ModelName { model: model.into(), problem };
    if let Some(id) = address::parse(model, &options.endpoint) {
        return id.map_err(name);
    }
    if diagnose::looks_like_path(model) {
        return Err(diagnose::no_such_path(model));
    }
    let id = model.strip_suffix('/').unwrap_or(model);
    if !id.contains('/') {
        return Err(diagnose::no_such_word(id, options));
    }
    HubId::parse(id).map_err(|problem| name(format!("there is no such directory, and {problem}")))
}

/// Adds what was probably meant to an error about a repository that is not there.
fn with_hint(error: EngineError, id: &HubId, options: &HubOptions) -> EngineError {
    let near = || {
        let beside = diagnose::nearest_directory(id).map(|dir| format!("the directory {dir}"));
        let cached = || diagnose::nearest_in_cache(&id.repo(), options).filter(|near| *near != id.repo());
        beside.or_else(cached).map(|near| format!("; did you mean {near}?"))
    };
    match error {
        EngineError::NotCached { model, cache_dir, problem } => {
            let problem = problem + &near().unwrap_or_default();
            EngineError::NotCached { model, cache_dir, problem }
        }
        EngineError::HubRefused { what, problem } => {
            let problem = problem + &near().unwrap_or_default();
            EngineError::HubRefused { what, problem }
        }
        other => other,
    }
}
