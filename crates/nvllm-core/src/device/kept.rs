//! What a backend keeps on disk between runs, such as compiled kernels: files that are named after
//! everything that they were made from, begin with the hash of the rest, and are written whole.
//! What does not match is made anew, never trusted.

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// The hash of parts that do not run into each other.
pub fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// A hash as files are named.
pub fn name(hash: Hash) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Content behind its hash.
pub fn seal(content: &[u8]) -> Vec<u8> {
    [Sha256::digest(content).as_slice(), content].concat()
}

/// The content of [`seal`], if the hash at its head is that of the rest.
pub fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let (hash, content) = bytes.split_at_checked(size_of::<Hash>())?;
    (Sha256::digest(content).as_slice() == hash).then_some(content)
}

/// Writes beside and renames, so that another process sees a whole file or none.
///
/// # Errors
/// If the folder cannot be made or written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    let unique = format!("{}.{:?}.part", std::process::id(), std::thread::current().id());
    let part = path.with_extension(unique.replace(['(', ')'], ""));
    std::fs::write(&part, bytes)?;
    std::fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_not_unsealed() {
        let sealed = seal(b"machine code");
        assert_eq!(unseal(&sealed), Some(&b"machine code"[..]));
        for (at, len) in [(0, 44), (40, 44), (99, 43), (99, 10), (99, 0)] {
            let mut bytes = sealed[..len].to_vec();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1;
            }
            assert_eq!(unseal(&bytes), None, "byte {at}, {len} bytes");
        }
    }

    #[test]
    fn a_file_is_written_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not/yet/there/a.image");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"another").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"another");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(hash([&b"a"[..], b"bc"]), hash([&b"ab"[..], b"c"]));
        assert_eq!(name(hash([])).len(), 64);
    }
}
