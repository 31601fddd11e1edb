//! Reading little-endian items one after another, and what may be wrong with them.

use std::path::Path;

use bytes::Bytes;
use nvllm_core::CoreError;

/// Why a header cannot be read.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The bytes end before it does.
    Ends,
    /// It says what cannot be.
    Damaged(String),
    /// It is of a kind that is not read.
    Unsupported(String),
}

impl Fault {
    /// The error about the file at `path`; `place` is the part of the header that was read.
    pub(crate) fn at(self, path: &Path, place: &str) -> CoreError {
        let path = path.to_path_buf();
        match self {
            Self::Ends => CoreError::BadCheckpoint { path, problem: format!("the file ends in {place}") },
            Self::Damaged(problem) => CoreError::BadCheckpoint { path, problem },
            Self::Unsupported(problem) => CoreError::UnsupportedCheckpoint { path, problem },
        }
    }
}

/// A place in a file.
pub(crate) struct Cursor<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: u64) -> Result<&'a [u8], Fault> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len)).ok_or(Fault::Ends)?;
        let taken = self.bytes.get(self.at..end).ok_or(Fault::Ends)?;
        self.at = end;
        Ok(taken)
    }

    /// What was read since `start`, sharing the file's memory.
    pub(crate) fn since(&self, start: usize) -> Bytes {
        self.bytes.slice(start..self.at)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    /// The bytes of a string: its length, then as many bytes.
    pub(crate) fn string(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.u64()?;
        self.take(len)
    }

    /// A key, or a tensor's name: `what`.
    pub(crate) fn name(&mut self, what: &str) -> Result<String, Fault> {
        /// The format's own bound.
        const MAX_LEN: usize = 65535;
        let bytes = self.string()?;
        if bytes.len() > MAX_LEN {
            return Err(Fault::Damaged(format!("has {what} of {} bytes", bytes.len())));
        }
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| Fault::Damaged(format!("has {what} that is not UTF-8")))
    }
}
