//! Files: which hold the weights, what is in them, whether they are cached.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use nvllm_engine::hub::ModelFiles;
use sha2::{Digest as _, Sha256};

use crate::{BenchError, Result};

/// Asks the system to drop its cached pages of the file; pages that a process maps stay.
///
/// Errors if the file cannot be opened or the system refuses.
pub fn evict(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(BenchError::io("open", path))?;
    // Only pages that are on disk can be dropped.
    file.sync_all().map_err(BenchError::io("sync", path))?;
    drop_pages(&file).map_err(BenchError::io("drop the cached pages of", path))
}

#[cfg(target_os = "linux")]
fn drop_pages(file: &File) -> std::io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

#[cfg(not(target_os = "linux"))]
fn drop_pages(_: &File) -> std::io::Result<()> {
    Err(std::io::Error::from(std::io::ErrorKind::Unsupported))
}

/// The weight files of the model at `path`, a directory or a GGUF file, in order, without an index.
///
/// Errors if there are none, or none that can be used.
pub fn weight_files(path: &Path) -> Result<Vec<PathBuf>> {
    let files = if path.is_file() { ModelFiles::gguf(path) } else { ModelFiles::in_directory(path) };
    Ok(files?.weights.paths().to_vec())
}

/// SHA-256 of the files' bytes one after another, hexadecimal: of one file, what `sha256sum`
/// prints.
pub fn sha256_files(files: &[PathBuf]) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let mut file = File::open(path).map_err(BenchError::io("read", path))?;
        loop {
            match file.read(&mut buffer).map_err(BenchError::io("read", path))? {
                0 => break,
                len => hasher.update(&buffer[..len]),
            }
        }
    }
    Ok(hexadecimal(&hasher.finalize()))
}

/// SHA-256 of bytes in memory, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The last component of a path, other text as it is: where things lie on this machine is nobody's
/// business.
pub fn base_name(text: &str) -> String {
    Path::new(text).file_name().map_or_else(|| text.into(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_hashed_in_order_of_their_files() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("b.safetensors", "c"), ("a.safetensors", "ab"), ("config.json", "{}")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let files = weight_files(dir.path()).unwrap();
        assert_eq!(sha256_files(&files).unwrap(), sha256(b"abc"));
        // FIPS 180-2's example.
        assert!(sha256(b"abc").starts_with("ba7816bf8f01cfea"));
        assert!(weight_files(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_gguf_file_is_its_own_weights() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"];
        let [a, b1, b2] = names.map(|name| {
            std::fs::write(dir.path().join(name), "GGUF").unwrap();
            dir.path().join(name)
        });
        assert_eq!(weight_files(&a).unwrap(), [a]);
        assert_eq!(weight_files(&b1).unwrap(), [b1, b2]);
    }

    #[test]
    fn names_are_cut_and_flags_are_not() {
        assert_eq!(base_name("a/b/model"), "model");
        assert_eq!(base_name("--quick"), "--quick");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_leaves_the_page_cache() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; 1 << 16]).unwrap();
        evict(file.path()).unwrap();
        assert!(evict(Path::new("no/such/file")).unwrap_err().to_string().contains("no/such/file"));
    }
}
