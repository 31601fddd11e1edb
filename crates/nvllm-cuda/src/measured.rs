//! What was measured to run faster on this device: every load of a backend chooses alike, and so
//! does the next start, which measures nothing again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nvllm_core::device::kept::write_whole;
use serde::{Deserialize, Serialize};

use crate::compile::name_of;

/// What is faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Faster {
    /// Our kernel.
    Ours,
    /// An algorithm of the vendor's library, in the words in which it may be kept for one version
    /// of it.
    Vendor([u64; 8]),
    /// Our decode pass, up to so many positions of a sequence.
    Pass(usize),
}

/// What is faster, by what it was measured for.
type Chosen = BTreeMap<String, Faster>;

/// The measurements of one backend.
pub(crate) struct Measured {
    /// Everything that a time depends on, shapes aside.
    conditions: String,
    path: Option<PathBuf>,
    chosen: RefCell<Chosen>,
    /// Whether something was measured that is not on disk.
    changed: Cell<bool>,
}

/// What a file holds.
#[derive(Serialize, Deserialize)]
struct Kept {
    conditions: String,
    chosen: Chosen,
}

impl Measured {
    /// Those that `dir` keeps for `conditions`; none where nothing is kept, or what is kept is
    /// damaged.
    pub(crate) fn open(dir: Option<&Path>, conditions: String) -> Self {
        let path = dir.map(|dir| dir.join(format!("measured-{}.json", name_of(conditions.as_bytes()))));
        let kept = path.as_deref().and_then(read).filter(|kept| kept.conditions == conditions);
        let chosen = RefCell::new(kept.map_or_else(Chosen::new, |kept| kept.chosen));
        Self { conditions, path, chosen, changed: Cell::new(false) }
    }

    /// What is faster for `case`, if it was measured.
    pub(crate) fn get(&self, case: &str) -> Option<Faster> {
        self.chosen.borrow().get(case).copied()
    }

    /// Remembers what is faster for `case`.
    pub(crate) fn insert(&self, case: String, faster: Faster) {
        self.chosen.borrow_mut().insert(case, faster);
        self.changed.set(true);
    }

    /// Writes what is new to disk. A folder that cannot be written costs measuring again at the
    /// next start, and a warning.
    pub(crate) fn keep(&self) {
        let Some(path) = self.path.as_ref().filter(|_| self.changed.take()) else { return };
        let kept = Kept { conditions: self.conditions.clone(), chosen: self.chosen.borrow().clone() };
        let text = serde_json::to_vec_pretty(&kept).map_err(std::io::Error::from);
        if let Err(error) = text.and_then(|text| write_whole(path, &text)) {
            tracing::warn!(path = %path.display(), %error, "measurements cannot be kept");
        }
    }
}

/// What a file holds, if it is there and whole.
fn read(path: &Path) -> Option<Kept> {
    let bytes = std::fs::read(path).ok()?;
    let kept = serde_json::from_slice(&bytes);
    if let Err(error) = &kept {
        tracing::warn!(path = %path.display(), %error, "kept measurements are damaged: measuring again");
    }
    kept.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_under_the_same_conditions_only() {
        let dir = tempfile::tempdir().unwrap();
        let open = |conditions: &str| Measured::open(Some(dir.path()), conditions.into());
        let words = [u64::MAX, 1, 2, 3, 4, 5, 6, 7];
        let first = open("an H200, cuBLASLt 130000");
        first.insert("k 1024".into(), Faster::Vendor(words));
        first.insert("k 2048".into(), Faster::Ours);
        assert_eq!(open("an H200, cuBLASLt 130000").get("k 1024"), None, "nothing is on disk yet");
        first.keep();
        let second = open("an H200, cuBLASLt 130000");
        assert_eq!(
            [second.get("k 1024"), second.get("k 2048")],
            [Some(Faster::Vendor(words)), Some(Faster::Ours)]
        );
        assert_eq!(second.get("k 4096"), None);
        std::fs::remove_file(second.path.as_ref().unwrap()).unwrap();
        second.keep();
        assert!(!second.path.as_ref().unwrap().exists(), "it has measured nothing");
        assert_eq!(open("an H200, cuBLASLt 130001").get("k 1024"), None);
    }

    #[test]
    fn a_damaged_file_counts_as_none_and_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Measured::open(Some(dir.path()), "here".into());
        let first = open();
        first.insert("k".into(), Faster::Ours);
        first.keep();
        let path = first.path.clone().unwrap();
        let whole = std::fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"", b"[]"] {
            std::fs::write(&path, damaged).unwrap();
            let again = open();
            assert_eq!(again.get("k"), None);
            again.insert("k".into(), Faster::Ours);
            again.keep();
            assert_eq!(open().get("k"), Some(Faster::Ours));
        }
    }

    #[test]
    fn without_a_folder_they_last_as_long_as_the_backend() {
        let measured = Measured::open(None, "here".into());
        measured.insert("k".into(), Faster::Ours);
        measured.keep();
        assert_eq!(measured.get("k"), Some(Faster::Ours));
    }
}
