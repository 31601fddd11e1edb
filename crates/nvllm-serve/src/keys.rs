//! API keys: which there are, and whose.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// How often the file is looked at, at most.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The keys that let a client in. Some are fixed; those of a file are what it holds now.
#[derive(Debug, Default)]
pub struct ApiKeys {
    fixed: Vec<Key>,
    file: Option<KeyFile>,
}

/// A key's hash: hashes are of one length, so the time of a comparison tells nothing of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    name: Option<String>,
    hash: [u8; 32],
}

impl Key {
    fn new(name: Option<&str>, key: &str) -> Self {
        Self { name: name.map(str::to_owned), hash: Sha256::digest(key.as_bytes()).into() }
    }
}

/// What tells whether a file was written since: some editors keep the time, some the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl Version {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Ok(Self { modified: metadata.modified().ok(), len: metadata.len(), inode })
    }
}

#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    state: Mutex<FileState>,
}

#[derive(Debug)]
struct FileState {
    keys: Vec<Key>,
    version: Option<Version>,
    checked: Instant,
}

/// Whether a client may come in, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Denied,
    /// With the key's name, if it has one.
    Granted(Option<String>),
}

impl ApiKeys {
    /// `fixed` keys, and those of `file`: one a line, `KEY` or `NAME:KEY`; blank lines and lines
    /// that begin with `#` are ignored. The file is read again when it has changed.
    ///
    /// Errors if the file cannot be read now.
    pub fn new(fixed: &[String], file: Option<&Path>) -> io::Result<Self> {
        let fixed = fixed.iter().map(|key| Key::new(None, key)).collect();
        let file = file.map(KeyFile::open).transpose()?;
        Ok(Self { fixed, file })
    }

    /// Whether a key is asked for at all.
    pub(crate) fn are_needed(&self) -> bool {
        self.file.is_some() || !self.fixed.is_empty()
    }

    /// Names of the file's keys, as of now.
    pub fn names(&self) -> Vec<String> {
        let of_file = |file: &KeyFile| {
            let state = file.lock();
            let mut names: Vec<_> = state.keys.iter().filter_map(|key| key.name.clone()).collect();
            names.sort();
            names.dedup();
            names
        };
        self.file.as_ref().map(of_file).unwrap_or_default()
    }

    /// Whether `given` is one of the keys. Compares with all of them, in time that depends on their
    /// number only.
    pub(crate) fn check(&self, given: &str) -> Access {
        let given = Key::new(None, given);
        let mut access = Access::Denied;
        let mut compare = |keys: &[Key]| {
            for key in keys {
                if bool::from(key.hash.ct_eq(&given.hash)) {
                    access = Access::Granted(key.name.clone());
                }
            }
        };
        compare(&self.fixed);
        if let Some(file) = &self.file {
            compare(&file.current().keys);
        }
        access
    }
}

impl KeyFile {
    fn open(path: &Path) -> io::Result<Self> {
        let version = Version::of(path)?;
        let keys = parse(&fs::read_to_string(path)?)?;
        let state = FileState { keys, version: Some(version), checked: Instant::now() };
        Ok(Self { path: path.to_owned(), state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, FileState> {
        // No panic can leave the keys half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys, read again if the file has changed.
    fn current(&self) -> MutexGuard<'_, FileState> {
        let mut state = self.lock();
        if state.checked.elapsed() >= CHECK_INTERVAL {
            state.checked = Instant::now();
            self.read_again(&mut state);
        }
        state
    }

    /// Keeps the keys that are known if the file cannot be read: whoever replaces it may have
    /// removed it for a moment.
    fn read_again(&self, state: &mut FileState) {
        let read = || {
            let version = Version::of(&self.path)?;
            if state.version == Some(version) {
                return Ok(None);
            }
            Ok::<_, io::Error>(Some((version, parse(&fs::read_to_string(&self.path)?)?)))
        };
        match read() {
            Ok(None) => {}
            Ok(Some((version, keys))) => {
                tracing::info!("{} has changed: it has {} API keys now", self.path.display(), keys.len());
                (state.version, state.keys) = (Some(version), keys);
            }
            // Said once: the next check finds it as it is.
            Err(error) if state.version.is_some() => {
                tracing::error!("{} cannot be read, its API keys stay: {error}", self.path.display());
                state.version = None;
            }
            Err(_) => {}
        }
    }
}

fn parse(text: &str) -> io::Result<Vec<Key>> {
    let mut keys = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, key) = match line.split_once(':') {
            Some((name, key)) => (Some(name.trim()), key.trim()),
            None => (None, line),
        };
        if key.is_empty() || name.is_some_and(str::is_empty) {
            let problem = format!("line {} is not KEY or NAME:KEY", at + 1);
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        keys.push(Key::new(name, key));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(name: Option<&str>) -> Access {
        Access::Granted(name.map(str::to_owned))
    }

    #[test]
    fn keys_have_names_or_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "# ours\n\nalice: sk-1\n  sk-2\nbob:sk-3:x\n").unwrap();
        let keys = ApiKeys::new(&["sk-0".into()], Some(file.path())).unwrap();
        assert_eq!(keys.names(), ["alice", "bob"]);
        for (key, access) in [
            ("sk-0", granted(None)),
            ("sk-1", granted(Some("alice"))),
            ("sk-2", granted(None)),
            ("sk-3:x", granted(Some("bob"))),
            ("alice:sk-1", Access::Denied),
            ("# ours", Access::Denied),
            ("sk-", Access::Denied),
            ("", Access::Denied),
        ] {
            assert_eq!(keys.check(key), access, "{key}");
        }
        assert!(keys.are_needed() && !ApiKeys::default().are_needed());
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_missing_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        fs::write(&path, "a:one").unwrap();
        let keys = ApiKeys::new(&[], Some(&path)).unwrap();
        let due = || {
            let mut state = keys.file.as_ref().unwrap().lock();
            state.checked = Instant::now().checked_sub(CHECK_INTERVAL).unwrap();
        };
        fs::write(&path, "a:two\nb:three").unwrap();
        // Not looked at again so soon.
        assert_eq!(keys.check("one"), granted(Some("a")));
        due();
        assert_eq!(keys.check("three"), granted(Some("b")));
        assert_eq!(keys.check("one"), Access::Denied);
        fs::write(&path, "name:").unwrap();
        due();
        assert_eq!(keys.check("two"), granted(Some("a")));
        fs::remove_file(&path).unwrap();
        due();
        assert_eq!(keys.check("two"), granted(Some("a")));
        fs::write(&path, "").unwrap();
        due();
        assert_eq!(keys.check("two"), Access::Denied);
        assert!(keys.are_needed());
    }

    #[test]
    fn a_line_that_is_no_key_is_refused_by_number() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "good\n:bad").unwrap();
        let error = ApiKeys::new(&[], Some(file.path())).unwrap_err().to_string();
        assert_eq!(error, "line 2 is not KEY or NAME:KEY");
        assert!(ApiKeys::new(&[], Some(Path::new("/no/such/file"))).is_err());
    }
}
