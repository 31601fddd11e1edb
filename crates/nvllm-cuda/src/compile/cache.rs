//! Machine code on disk, known by the content that it was made from. What does not match is made anew, never trusted.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::sources::HEADERS;
use super::{Nvrtc, Source, Target};
use crate::error::Result;

/// Bytes of a SHA-256.
const HASH_LEN: usize = 32;

/// A folder of compiled kernels; without a folder every start compiles.
#[derive(Clone, Debug, Default)]
pub struct KernelCache {
    dir: Option<PathBuf>,
}

impl KernelCache {
    /// A cache in `dir`, which is made when something is stored.
    pub const fn new(dir: Option<PathBuf>) -> Self {
        Self { dir }
    }

    /// The machine code of `source`, from the folder if it is there and whole, else compiled and stored.
    ///
    /// A folder that cannot be written costs compiling again at the next start, and a warning.
    ///
    /// # Errors
    /// As [`Nvrtc::compile`].
    pub fn image(&self, nvrtc: Nvrtc, source: &Source, target: Target) -> Result<Vec<u8>> {
        let Some(dir) = &self.dir else { return Ok(nvrtc.compile(source, target)?.image) };
        let path = dir.join(format!("{}.cubin", key(nvrtc, source, target)));
        if let Some(image) = read(&path) {
            return Ok(image);
        }
        let image = nvrtc.compile(source, target)?.image;
        if let Err(error) = write(dir, &path, &image) {
            tracing::warn!(path = %path.display(), %error, "compiled kernels cannot be kept");
        }
        Ok(image)
    }
}

/// SHA-256 of everything that the machine code depends on, in hexadecimal.
fn key(nvrtc: Nvrtc, source: &Source, target: Target) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let (major, minor) = nvrtc.version();
    part(format!("nvrtc {major}.{minor}").as_bytes());
    Nvrtc::options(target).iter().for_each(|option| part(option.as_bytes()));
    part(source.path.as_bytes());
    part(source.text.as_bytes());
    for (name, body) in HEADERS {
        part(name.as_bytes());
        part(body.as_bytes());
    }
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The image in a file, if the hash at its head is that of the rest.
fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let (hash, image) = bytes.split_at_checked(HASH_LEN)?;
    let whole = Sha256::digest(image).as_slice() == hash;
    if !whole {
        tracing::warn!(path = %path.display(), "a compiled kernel is damaged: compiling it again");
    }
    whole.then(|| image.to_vec())
}

/// Writes beside and renames, so that another process sees a whole file or none.
fn write(dir: &Path, path: &Path, image: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let unique = format!("{}.{:?}.part", std::process::id(), std::thread::current().id());
    let part = path.with_extension(unique.replace(['(', ')'], ""));
    let mut file = std::fs::File::create(&part)?;
    file.write_all(&Sha256::digest(image))?;
    file.write_all(image)?;
    drop(file);
    std::fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.cubin");
        write(dir.path(), &path, b"machine code").unwrap();
        assert_eq!(read(&path).as_deref(), Some(&b"machine code"[..]));
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, len) in [(0, 44), (40, 44), (0, 43), (0, 10), (0, 0)] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1;
            }
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert_eq!(read(&path), None, "byte {at}, {len} bytes");
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let nvrtc = Nvrtc::of_version((13, 0));
        let source = |path, text| Source { path, text, takes: |_| true };
        let a = key(nvrtc, &source("a", "bc"), Target::Cubin(90));
        assert_eq!(a, key(nvrtc, &source("a", "bc"), Target::Cubin(90)));
        assert_ne!(a, key(nvrtc, &source("ab", "c"), Target::Cubin(90)));
        assert_ne!(a, key(nvrtc, &source("a", "bc"), Target::Cubin(89)));
        assert_ne!(a, key(Nvrtc::of_version((13, 1)), &source("a", "bc"), Target::Cubin(90)));
    }
}
