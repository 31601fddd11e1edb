//! Machine code on disk, known by the content that it was made from. What does not match is made
//! anew, never trusted.

use std::path::{Path, PathBuf};
use std::sync::Once;

use nvllm_core::device::kept::{name, seal, unseal, write_whole};

use super::content::key;
use super::{Nvrtc, Source, Target};
use crate::error::Result;

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

    /// The machine code of `source`, from the folder if it is there and whole, else compiled and
    /// stored.
    ///
    /// # Errors
    /// As [`Nvrtc::compile`].
    pub fn image(&self, nvrtc: Nvrtc, source: &Source, target: Target) -> Result<Vec<u8>> {
        let kept = self.path(nvrtc, source, target).and_then(|path| read(&path));
        kept.map_or_else(|| self.compile(nvrtc, source, target), Ok)
    }

    /// The machine code of `source`, compiled now and stored in place of what is there.
    ///
    /// A folder that cannot be written costs compiling again at the next start, and a warning.
    ///
    /// # Errors
    /// As [`Nvrtc::compile`].
    pub fn compile(&self, nvrtc: Nvrtc, source: &Source, target: Target) -> Result<Vec<u8>> {
        let image = nvrtc.compile(source, target)?.image;
        if let Some(path) = self.path(nvrtc, source, target)
            && let Err(error) = write(&path, &image)
        {
            // Once: the other files fail alike.
            static SAID: Once = Once::new();
            SAID.call_once(
                || tracing::warn!(path = %path.display(), %error, "compiled kernels cannot be kept"),
            );
        }
        Ok(image)
    }

    fn path(&self, nvrtc: Nvrtc, source: &Source, target: Target) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join(name(key(nvrtc.version(), source, target)) + ".image"))
    }
}

/// The image in a file, if it is whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let image = unseal(&bytes);
    if image.is_none() {
        tracing::warn!(path = %path.display(), "a compiled kernel is damaged: compiling it again");
    }
    image.map(<[u8]>::to_vec)
}

fn write(path: &Path, image: &[u8]) -> std::io::Result<()> {
    write_whole(path, &seal(image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_not_read_and_a_written_one_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernels/a.image");
        assert_eq!(read(&path), None);
        write(&path, b"machine code").unwrap();
        assert_eq!(read(&path).as_deref(), Some(&b"machine code"[..]));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path), None);
        write(&path, b"anew").unwrap();
        assert_eq!(read(&path).as_deref(), Some(&b"anew"[..]));
    }
}
