//! The store of blobs that repositories of a cache share, as `huggingface_hub` 2 lays it out.
//!
//! ```text
//! <cache_dir>/blobs/.huggingface-shared-blobs      holds "1\n": the store's mark and version
//!                   ab/abcd..                      content, named by its Xet hash of 64 digits
//!                   ab/abcd...refs                 lines `models--org--name/blobs/<etag>`: links that were made to it
//!                   ab/abcd...lock                 held while links are made or the blob is removed
//! ```
//!
//! Nothing is put there by us. A blob there is removed with the last link to it, and left where the
//! store is not of this form.

use std::fs::File;
use std::path::{Path, PathBuf};

const MARK: &str = ".huggingface-shared-blobs";
const VERSION: &str = "1\n";

/// The shared blob that a link in a repository's `blobs` leads to.
pub(super) fn target(cache_dir: &Path, link: &Path) -> Option<PathBuf> {
    let store = cache_dir.join("blobs").canonicalize().ok()?;
    let target = link.canonicalize().ok()?;
    let name = target.file_name()?.to_str()?;
    let is_hash = name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (is_hash && target == store.join(&name[..2]).join(name) && target.is_file()).then_some(target)
}

/// Removes a shared blob if no link to it is left; the bytes freed.
pub(super) fn sweep(cache_dir: &Path, blob: &Path) -> u64 {
    try_sweep(cache_dir, blob).unwrap_or(0)
}

/// `None` leaves the blob: links that cannot be read are not grounds for removing what they may
/// need.
fn try_sweep(cache_dir: &Path, blob: &Path) -> Option<u64> {
    if std::fs::read_to_string(cache_dir.join("blobs").join(MARK)).ok()? != VERSION {
        return None;
    }
    let beside = |end: &str| PathBuf::from(format!("{}{end}", blob.display()));
    let lock = File::options().create(true).truncate(false).write(true).open(beside(".lock")).ok()?;
    lock.lock().ok()?;
    let links = std::fs::read_to_string(beside(".refs")).ok()?;
    let leads_here = |line: &str| target(cache_dir, &cache_dir.join(line)).is_some_and(|to| to == blob);
    if links.lines().any(leads_here) {
        return None;
    }
    let len = blob.symlink_metadata().ok()?.len();
    std::fs::remove_file(blob).ok()?;
    // What is left without it says nothing.
    let _ = std::fs::remove_file(beside(".refs"));
    Some(len)
}
