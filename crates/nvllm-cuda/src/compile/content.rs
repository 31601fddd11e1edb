//! What machine code is known by: the same for the folder and for the archive.

use std::sync::LazyLock;

use nvllm_core::device::kept::{Hash, hash, name};

use super::sources::{HEADERS, sources};
use super::{Nvrtc, Source, Target};

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
    name(hash([bytes]))
}

#[cfg(test)]
mod tests {
    use super::*;

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
