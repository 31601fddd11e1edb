//! What the cache holds of a repository: refs, snapshots, and the blobs that their files are links
//! to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::name::is_part;

/// How a model's directory in the cache begins; data sets and spaces have their own.
const PREFIX: &str = "models--";

/// A repository's directory, read once.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Branch, tag or pull request to the commit it named last.
    pub(super) refs: BTreeMap<String, String>,
    /// Commit to its files.
    pub(super) snapshots: BTreeMap<String, Vec<SnapshotFile>>,
}

/// A file of a snapshot.
#[derive(Debug)]
pub(super) struct SnapshotFile {
    pub(super) path: PathBuf,
    /// The name of the blob beside the snapshots that it is a link to. `None` for a file that lies
    /// in the snapshot itself, and for a link that leads elsewhere.
    pub(super) blob: Option<String>,
}

impl Layout {
    /// Reads the directory of a repository. What cannot be read is left out: a cache is other
    /// programs' too.
    pub(super) fn read(repo: &Path) -> Self {
        let mut refs = BTreeMap::new();
        let refs_dir = repo.join("refs");
        for path in files_below(&refs_dir) {
            let name = path.strip_prefix(&refs_dir).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            if let Ok(commit) = std::fs::read_to_string(&path) {
                refs.insert(name, commit.trim().to_owned());
            }
        }
        let mut snapshots = BTreeMap::new();
        for dir in entries(&repo.join("snapshots")).into_iter().filter(|path| path.is_dir()) {
            let commit = file_name(&dir);
            let blobs = repo.join("blobs");
            let files = files_below(&dir);
            let files =
                files.into_iter().map(|path| SnapshotFile { blob: blob_of(&path, &blobs), path }).collect();
            snapshots.insert(commit, files);
        }
        Self { refs, snapshots }
    }

    /// The refs that name a commit, sorted.
    pub(super) fn refs_of(&self, commit: &str) -> Vec<String> {
        self.refs.iter().filter(|(_, named)| *named == commit).map(|(name, _)| name.clone()).collect()
    }
}

/// Directories of models in the cache, by id, sorted.
pub(super) fn models(cache_dir: &Path) -> BTreeMap<String, PathBuf> {
    let dirs = entries(cache_dir).into_iter().filter(|path| path.is_dir());
    dirs.filter_map(|dir| Some((id_of(&file_name(&dir))?, dir))).collect()
}

/// `org/name` of `models--org--name`; ids of the first days have no organisation.
fn id_of(dir_name: &str) -> Option<String> {
    let parts: Vec<_> = dir_name.strip_prefix(PREFIX)?.split("--").collect();
    ((1..=2).contains(&parts.len()) && parts.iter().all(|part| is_part(part))).then(|| parts.join("/"))
}

/// The blob that a link in a snapshot names, if it is one of this repository's. By the link's text
/// alone: what it leads to is looked at by no one who removes it.
fn blob_of(path: &Path, blobs: &Path) -> Option<String> {
    let target = std::fs::read_link(path).ok()?;
    let name = target.file_name()?.to_str()?.to_owned();
    let same = |a: &Path| a.canonicalize().ok().zip(blobs.canonicalize().ok()).is_some_and(|(a, b)| a == b);
    same(&path.parent()?.join(target.parent()?)).then_some(name)
}

/// Files and links below a directory; links to directories are not followed.
pub(super) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in entries(dir) {
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => files.extend(files_below(&path)),
            Ok(_) => files.push(path),
            Err(_) => {}
        }
    }
    files
}

/// What a directory holds, sorted.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_directories() {
        for (dir, id) in [
            ("models--Qwen--Qwen3-0.6B", Some("Qwen/Qwen3-0.6B")),
            ("models--gpt2", Some("gpt2")),
            ("datasets--a--b", None),
            ("models--a--b--c", None),
            ("models--", None),
            ("models--..--b", None),
            (".locks", None),
        ] {
            assert_eq!(id_of(dir).as_deref(), id, "{dir}");
        }
    }
}
