//! Machine code of all kernels for all architectures in one file: what a release build has inside,
//! so that nothing compiles at start and the driver alone suffices.
//!
//! Each image is known by the same hash as in the folder of compiled kernels, with the compiler
//! that the archive names: an archive made from other sources than the build's answers nothing, and
//! a damaged image is none. The layout, little-endian: `MAGIC`, major and minor of NVRTC, the
//! number of images, then for each its key and its length (u32), then their bytes one after
//! another: hash and image, compressed by zlib one by one, so that a start expands those of its own
//! device only.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use nvllm_core::device::kept::{Hash, seal, unseal};

use super::content::key;
use super::{Nvrtc, Source, Target, sources};

/// The kind of file and its version.
const MAGIC: &[u8; 16] = b"nvllm kernels 1\n";

/// Kernels of an archive in memory.
#[derive(Clone, Debug)]
pub struct Archive<'a> {
    version: (i32, i32),
    len: usize,
    images: HashMap<Hash, &'a [u8]>,
}

impl<'a> Archive<'a> {
    /// Reads the table of an archive; `None` if it is damaged or of another version.
    pub fn open(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        if take(&mut rest)? != MAGIC {
            return None;
        }
        let mut word = || Some(u32::from_le_bytes(*take(&mut rest)?));
        let (major, minor, num) = (word()?, word()?, word()?);
        let version = (i32::try_from(major).ok()?, i32::try_from(minor).ok()?);
        let mut table = Vec::new();
        for _ in 0..num {
            let key: &Hash = take(&mut rest)?;
            table.push((*key, u32::from_le_bytes(*take(&mut rest)?) as usize));
        }
        let mut images = HashMap::new();
        for (key, len) in table {
            let (image, after) = rest.split_at_checked(len)?;
            images.insert(key, image);
            rest = after;
        }
        Some(Self { version, len: bytes.len(), images })
    }

    /// Major and minor version of the compiler that made it.
    pub const fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Its size in bytes.
    pub const fn num_bytes(&self) -> usize {
        self.len
    }

    /// The machine code of `source` as this build has it; `None` if it is not here or is damaged.
    pub fn image(&self, source: &Source, target: Target) -> Option<Vec<u8>> {
        let packed = self.images.get(&key(self.version, source, target))?;
        let mut sealed = Vec::new();
        let read = ZlibDecoder::new(*packed).read_to_end(&mut sealed);
        let image = read.ok().and_then(|_| unseal(&sealed));
        if image.is_none() {
            tracing::warn!(file = source.path, "a kernel inside this build is damaged");
        }
        image.map(<[u8]>::to_vec)
    }

    /// Whether every kernel that this build has for `target` is here.
    pub fn holds(&self, target: Target) -> bool {
        let mut wanted = sources().iter().filter(|source| (source.takes)(target));
        wanted.all(|source| self.images.contains_key(&key(self.version, source, target)))
    }
}

/// The next `N` bytes.
fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(head)
}

/// An archive of `images`, all made by `nvrtc`.
///
/// # Errors
/// If an image has 4 GiB or more.
pub fn archive(nvrtc: Nvrtc, images: &[(Source, Target, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let (major, minor) = nvrtc.version();
    let mut head = MAGIC.to_vec();
    for word in [major as u32, minor as u32, images.len() as u32] {
        head.extend(word.to_le_bytes());
    }
    let mut body = Vec::new();
    for (source, target, image) in images {
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&seal(image))?;
        let packed = packed.finish()?;
        head.extend(key(nvrtc.version(), source, *target));
        head.extend(u32::try_from(packed.len()).map_err(std::io::Error::other)?.to_le_bytes());
        body.extend(packed);
    }
    Ok([head, body].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source = Source { path: "a.cu", text: "kernel", takes: |_| true };
    const HOPPER: Target = Target::Cubin(90);

    fn two() -> Vec<u8> {
        let other = Source { path: "b.cu", ..SOURCE };
        let images = [(SOURCE, HOPPER, vec![7; 1000]), (other, Target::Ptx(80), b".version 9.0\0".to_vec())];
        archive(Nvrtc::of_version((13, 0)), &images).unwrap()
    }

    #[test]
    fn images_come_back_as_they_went_in() {
        let bytes = two();
        assert!(bytes.len() < 1000, "{} bytes", bytes.len());
        let archive = Archive::open(&bytes).unwrap();
        assert_eq!((archive.version(), archive.num_bytes()), ((13, 0), bytes.len()));
        assert_eq!(archive.image(&SOURCE, HOPPER), Some(vec![7; 1000]));
        let ptx = archive.image(&Source { path: "b.cu", ..SOURCE }, Target::Ptx(80));
        assert_eq!(ptx.as_deref(), Some(&b".version 9.0\0"[..]));
    }

    /// Sources that have changed since, another file, another architecture.
    #[test]
    fn what_was_made_from_something_else_is_not_here() {
        let bytes = two();
        let archive = Archive::open(&bytes).unwrap();
        assert_eq!(archive.image(&Source { text: "kernel, changed", ..SOURCE }, HOPPER), None);
        assert_eq!(archive.image(&Source { path: "c.cu", ..SOURCE }, HOPPER), None);
        assert_eq!(archive.image(&SOURCE, Target::Cubin(100)), None);
        assert!(!archive.holds(HOPPER));
    }

    #[test]
    fn all_kernels_of_an_architecture_or_not() {
        let all = |target| sources().iter().filter(move |source| (source.takes)(target));
        let mut images: Vec<_> = all(HOPPER).map(|source| (*source, HOPPER, vec![1])).collect();
        let bytes = archive(Nvrtc::of_version((13, 0)), &images).unwrap();
        let whole = Archive::open(&bytes).unwrap();
        assert!(whole.holds(HOPPER) && !whole.holds(Target::Cubin(80)));
        images.pop();
        let bytes = archive(Nvrtc::of_version((13, 0)), &images).unwrap();
        assert!(!Archive::open(&bytes).unwrap().holds(HOPPER));
    }

    /// Whatever byte is changed and wherever the file ends: the image or none, never another one.
    #[test]
    fn damage_is_noticed() {
        let bytes = two();
        let read = |bytes: &[u8]| Archive::open(bytes)?.image(&SOURCE, HOPPER);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(read(&changed).is_none_or(|image| image == [7; 1000]), "byte {at}");
            assert_eq!(read(&bytes[..at]), None, "{at} bytes");
        }
    }
}
