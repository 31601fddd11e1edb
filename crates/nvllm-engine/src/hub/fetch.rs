//! What a repository's model needs, from the hub into the cache.

use super::cache::RepoCache;
use super::client::Client;
use super::download::Wanted;
use super::event::{HubEvent, Progress};
use super::file_names::CONFIG;
use super::files::{self, ModelFiles, PlannedWeights};
use super::name::HubId;
use super::options::HubOptions;
use crate::{EngineError, Result, checkpoint};

/// Fetches what is not there; `cached` serves if the hub cannot be reached.
pub(super) fn fetch(
    id: &HubId,
    options: &HubOptions,
    cache: &RepoCache,
    cached: Option<ModelFiles>,
    progress: &mut Progress<'_>,
) -> Result<ModelFiles> {
    let client = Client::new(options)?;
    // With something to fall back on, a machine without network should not wait through the
    // retries.
    let attempts = if cached.is_some() { 1 } else { options.retry.attempts };
    let repo = match (client.repo_info(id, attempts, progress), cached) {
        (Ok(repo), _) => repo,
        (Err(EngineError::HubUnreachable { problem, .. }), Some(files)) => {
            progress(HubEvent::UsingCache { reason: &problem });
            return Ok(files);
        }
        (Err(e), _) => return Err(e),
    };
    let plan = files::needed(id, &repo.files)?;
    let mut fetcher = Fetcher { client: &client, cache, id, commit: &repo.commit, num_files: 0, total: 0 };
    let mut small = fetcher.ask(&plan.small_files, progress)?;
    let mut weights = match &plan.weights {
        PlannedWeights::Files(files) | PlannedWeights::Gguf(files) => fetcher.ask(files, progress)?,
        PlannedWeights::Index(_) => Vec::new(),
    };
    fetcher.get(&mut small, progress)?;
    let snapshot = cache.snapshot_dir(&repo.commit);
    // Before gigabytes are on their way.
    match &plan.weights {
        PlannedWeights::Gguf(parts) => {
            // The first part says what the model is; one that is here already was looked at.
            let first = weights.first().filter(|wanted| wanted.file() == parts[0]);
            if let Some(first) = first {
                let start = first.start(&client, id, progress)?;
                nvllm_gguf::check_start(&snapshot.join(first.file()), &start.into())?;
            }
        }
        _ => drop(checkpoint::read_config(&snapshot.join(CONFIG), &snapshot)?),
    }
    if let PlannedWeights::Index(index) = &plan.weights {
        let shards = files::shard_names(&snapshot.join(index))?;
        if let Some(shard) = shards.iter().find(|shard| !repo.files.contains(*shard)) {
            let what = id.to_string();
            let problem = format!("its weight index names {shard}, which the repository does not have");
            return Err(EngineError::HubRefused { what, problem });
        }
        weights = fetcher.ask(&shards, progress)?;
    }
    fetcher.get(&mut weights, progress)?;
    cache.write_ref(id, &repo.commit)?;
    match &plan.weights {
        PlannedWeights::Gguf(files) => cache.gguf_of_commit(id, &repo.commit, files),
        _ => cache.snapshot_of_commit(id, &repo.commit),
    }
}

/// Fetches files of one commit.
struct Fetcher<'a> {
    client: &'a Client,
    cache: &'a RepoCache,
    id: &'a HubId,
    commit: &'a str,
    /// Of what was asked about so far.
    num_files: usize,
    total: u64,
}

impl Fetcher<'_> {
    /// Asks about those of `files` that are not in the snapshot.
    fn ask<S: AsRef<str>>(&mut self, files: &[S], progress: &mut Progress<'_>) -> Result<Vec<Wanted>> {
        let snapshot = self.cache.snapshot_dir(self.commit);
        let absent = files.iter().map(AsRef::as_ref).filter(|file| !snapshot.join(file).is_file());
        let wanted = absent
            .map(|file| Wanted::ask(self.client, self.id, self.commit, file, progress))
            .collect::<Result<Vec<_>>>()?;
        if !wanted.is_empty() {
            self.num_files += wanted.len();
            self.total += wanted.iter().map(Wanted::len).sum::<u64>();
            progress(HubEvent::Planned { num_files: self.num_files, total: self.total });
        }
        Ok(wanted)
    }

    fn get(&self, wanted: &mut Vec<Wanted>, progress: &mut Progress<'_>) -> Result<()> {
        for file in wanted.drain(..) {
            file.get(self.client, self.cache, self.id, self.commit, progress)?;
        }
        Ok(())
    }
}
