//! What machine code is known by, and how damage to it is noticed: the same for the folder and for
//! the archive.

use std::fmt::Write as _;
use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

use super::sources::{HEADERS, sources};
use super::{Nvrtc, Source, Target};

/// A SHA-256.
pub(super) type Hash = [u8; 32];

/// The hash of everything that the machine code of `source` depends on, made by NVRTC `version` for
/// `target`.
pub(super) fn key((major, minor): (i32, i32), source: &Source, target: Target) -> Hash {
    /// The headers are hashed once.
    static OF_HEADERS: LazyLock<Hash> =
        LazyLock::new(|| hash(HEADERS.iter().flat_map(|(name, body)| [name.as_bytes(), body.as_bytes()])));
    let compiler = format!("nvrtc {major}.{minor}");
    let options = Nvrtc::options(target);
    let parts = [compiler.as_bytes(), source.path.as_bytes(), source.text.as_bytes(), &*OF_HEADERS];
    hash(parts.into_iter().chain(options.iter().map(String::as_bytes)))
}

/// A text for everything that kernels are compiled from, their compiler aside.
pub(crate) fn sources_name() -> String {
    let headers = HEADERS.iter().copied();
    let sources = sources().iter().map(|source| (source.path, source.text));
    name(hash(headers.chain(sources).flat_map(|(path, text)| [path.as_bytes(), text.as_bytes()])))
}

/// A text for some bytes, as files are named.
pub(crate) fn name_of(bytes: &[u8]) -> String {
    name(Sha256::digest(bytes).into())
}

/// A hash as files are named.
pub(super) fn name(hash: Hash) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The hash of parts that do not run into each other.
fn hash<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// An image behind its hash.
pub(super) fn seal(image: &[u8]) -> Vec<u8> {
    [Sha256::digest(image).as_slice(), image].concat()
}

/// The image of [`seal`], if the hash at its head is that of the rest.
pub(super) fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let (hash, image) = bytes.split_at_checked(size_of::<Hash>())?;
    (Sha256::digest(image).as_slice() == hash).then_some(image)
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
    fn parts_do_not_run_into_each_other() {
        let source = |path, text| Source { path, text, takes: |_| true };
        let a = key((13, 0), &source("a", "bc"), Target::Cubin(90));
        assert_eq!(a, key((13, 0), &source("a", "bc"), Target::Cubin(90)));
        assert_ne!(a, key((13, 0), &source("ab", "c"), Target::Cubin(90)));
        assert_ne!(a, key((13, 0), &source("a", "bc"), Target::Cubin(89)));
        assert_ne!(a, key((13, 1), &source("a", "bc"), Target::Cubin(90)));
    }
}
