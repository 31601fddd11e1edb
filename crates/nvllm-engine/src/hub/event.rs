//! What a program is told while a model is fetched.

use std::time::Duration;

/// What happens while a model is fetched, for a program that shows it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum HubEvent<'a> {
    /// What is to be fetched in all, as far as is known: said when files are added to it (the
    /// shards of an index).
    Planned {
        /// Files that are not here yet.
        num_files: usize,
        /// Their bytes.
        total: u64,
    },
    /// Bytes of a file are here: at its start (more than none if a download is resumed), as they
    /// arrive, and when a server made it start again.
    Progress {
        /// File in the repository.
        file: &'a str,
        /// Bytes on disk.
        done: u64,
        /// Bytes of the whole file.
        total: u64,
    },
    /// A file is complete, verified and linked.
    Fetched {
        /// File in the repository.
        file: &'a str,
        /// Its size in bytes.
        total: u64,
    },
    /// Something failed and is tried again after a wait.
    Retrying {
        /// What was asked for.
        what: &'a str,
        /// What failed.
        reason: &'a str,
        /// The wait.
        delay: Duration,
    },
    /// Another process downloads the same file; its end is awaited.
    Waiting {
        /// File in the repository.
        file: &'a str,
    },
    /// The hub cannot be reached; the snapshot in the cache is used, which may not be the newest.
    UsingCache {
        /// Why the hub cannot be reached.
        reason: &'a str,
    },
}

/// Receives [`HubEvent`]s.
pub type Progress<'a> = dyn FnMut(HubEvent<'_>) + 'a;
