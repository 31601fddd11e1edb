//! API keys: which there are, and whose.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// How often the file is looked at.
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

/// A file of keys, looked at by a thread of its own: whoever asks for a key waits for no disk.
#[derive(Debug)]
struct KeyFile {
    watched: Arc<Watched>,
    /// Its end ends the thread.
    _thread: Sender<()>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    keys: RwLock<Vec<Key>>,
    /// The version that was read; none after one that could not be. Held by who looks at the file.
    version: Mutex<Option<Version>>,
    listener: Listener,
}

/// What is done with the names of the keys when they have changed.
type OnChange = Box<dyn Fn(&[String]) + Send>;

#[derive(Default)]
struct Listener(Mutex<Option<OnChange>>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
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
    /// Errors if the file cannot be read now, or a thread that looks at it cannot be started.
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
        self.file.as_ref().map(|file| file.watched.names()).unwrap_or_default()
    }

    /// Tells `listener` the names of the file's keys, now and whenever the file has changed, in
    /// place of who was told before.
    pub fn on_change(&self, listener: impl Fn(&[String]) + Send + 'static) {
        let Some(file) = &self.file else { return };
        // Held meanwhile, so that it misses no change.
        let mut slot = file.watched.listener.0.lock().unwrap_or_else(PoisonError::into_inner);
        listener(&file.watched.names());
        *slot = Some(Box::new(listener));
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
            compare(&file.watched.keys());
        }
        access
    }
}

impl KeyFile {
    fn open(path: &Path) -> io::Result<Self> {
        let version = Version::of(path)?;
        let keys = parse(&fs::read_to_string(path)?)?;
        let watched = Arc::new(Watched {
            path: path.to_owned(),
            keys: RwLock::new(keys),
            version: Mutex::new(Some(version)),
            listener: Listener::default(),
        });
        let (thread, ended) = channel();
        let looked_at = Arc::clone(&watched);
        std::thread::Builder::new().name("nvllm-keys".into()).spawn(move || {
            while ended.recv_timeout(CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                looked_at.look();
            }
        })?;
        Ok(Self { watched, _thread: thread })
    }
}

impl Watched {
    fn keys(&self) -> RwLockReadGuard<'_, Vec<Key>> {
        // No panic can leave the keys half changed.
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sorted, each once.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.keys().iter().filter_map(|key| key.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Reads the file if it has changed. Keeps the keys that are known if it cannot be read:
    /// whoever replaces it may have removed it for a moment.
    fn look(&self) {
        let mut known = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let read = || {
            let version = Version::of(&self.path)?;
            if *known == Some(version) {
                return Ok(None);
            }
            Ok::<_, io::Error>(Some((version, parse(&fs::read_to_string(&self.path)?)?)))
        };
        match read() {
            Ok(Some((version, keys))) => {
                tracing::info!("{} has changed: it has {} API keys now", self.path.display(), keys.len());
                *known = Some(version);
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
                let listener = self.listener.0.lock().unwrap_or_else(PoisonError::into_inner);
                listener.iter().for_each(|listener| listener(&self.names()));
            }
            // Said once: the next look finds it as it is.
            Err(error) if known.is_some() => {
                tracing::error!("{} cannot be read, its API keys stay: {error}", self.path.display());
                *known = None;
            }
            Ok(None) | Err(_) => {}
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
        // Not waiting for the thread, which does the same.
        let look = || keys.file.as_ref().unwrap().watched.look();
        fs::write(&path, "a:two\nb:three").unwrap();
        look();
        assert_eq!(keys.check("three"), granted(Some("b")));
        assert_eq!(keys.check("one"), Access::Denied);
        fs::write(&path, "name:").unwrap();
        look();
        assert_eq!(keys.check("two"), granted(Some("a")));
        fs::remove_file(&path).unwrap();
        look();
        assert_eq!(keys.check("two"), granted(Some("a")));
        fs::write(&path, "").unwrap();
        look();
        assert_eq!(keys.check("two"), Access::Denied);
        assert!(keys.are_needed());
    }

    #[test]
    fn a_listener_hears_the_names_now_and_when_they_change() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "b:one\na:two\na:three\nfour").unwrap();
        let keys = ApiKeys::new(&[], Some(file.path())).unwrap();
        let (sender, heard) = channel();
        keys.on_change(move |names| sender.send(names.to_vec()).unwrap());
        fs::write(&file, "c:five").unwrap();
        // Not waiting for the thread, which may have done the same.
        keys.file.as_ref().unwrap().watched.look();
        drop(keys);
        let heard: Vec<_> = heard.iter().collect();
        assert_eq!((&heard[0], heard.last()), (&vec!["a".into(), "b".into()], Some(&vec!["c".into()])));
    }

    #[test]
    fn the_file_is_watched_as_long_as_its_keys_are_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let keys = ApiKeys::new(&[], Some(file.path())).unwrap();
        fs::write(&file, "late").unwrap();
        let begun = std::time::Instant::now();
        while keys.check("late") == Access::Denied {
            assert!(begun.elapsed() < 30 * CHECK_INTERVAL, "nobody looks at the file");
            std::thread::sleep(Duration::from_millis(10));
        }
        let watched = Arc::downgrade(&keys.file.as_ref().unwrap().watched);
        drop(keys);
        while watched.upgrade().is_some() {
            assert!(begun.elapsed() < 30 * CHECK_INTERVAL, "its thread goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
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
