//! Checkpoint files are mapped, not read: a tensor's bytes come into memory when they are used.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;

use crate::{CoreError, Result};

/// The bytes of the file at `path`: a private, read-only mapping that lives as long as any slice
/// of it. Errors with [`Io`](CoreError::Io).
pub fn map_file(path: &Path) -> Result<Bytes> {
    let io = |cause| CoreError::Io { path: path.into(), cause };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the mapping is private and read-only. Truncation of the file by another process while
    // it is mapped would fault on access; model files are not modified in place, and every engine
    // that maps weights accepts this.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file) }.map_err(io)?;
    Ok(Bytes::from_owner(map))
}
