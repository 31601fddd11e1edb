//! A safetensors file that is written tensor by tensor, in any order, and is there whole or not at
//! all.
//!
//! The header comes first and needs shapes only, so that no tensor is held longer than it takes to
//! write it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::{EngineError, Result};

/// What is known of a tensor before its bytes.
pub(crate) struct Slot {
    pub name: String,
    pub dtype: Dtype,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
}

impl Slot {
    pub(crate) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// The file while it is written: under another name, which is removed unless it is finished.
pub(crate) struct TensorFile {
    path: PathBuf,
    part: PathBuf,
    file: File,
    /// Where the tensors lie that are still to come, from the file's start, and their sizes.
    missing: BTreeMap<String, (u64, usize)>,
    finished: bool,
}

impl TensorFile {
    /// Begins the file at `path`, which will hold `slots`.
    pub(crate) fn create(path: &Path, mut slots: Vec<Slot>) -> Result<Self> {
        // Wide elements first, as safetensors does: all are aligned then.
        slots.sort_by(|a, b| b.dtype.bitsize().cmp(&a.dtype.bitsize()).then_with(|| a.name.cmp(&b.name)));
        let (mut places, mut infos, mut end) = (Vec::new(), Vec::new(), 0);
        for slot in slots {
            let (start, len) = (end, slot.bytes());
            end += len;
            places.push((slot.name.clone(), (start, len)));
            let info = TensorInfo { dtype: slot.dtype, shape: slot.shape, data_offsets: (start, end) };
            infos.push((slot.name, info));
        }
        let format = [("format".to_owned(), "pt".to_owned())].into();
        let part = path.with_added_extension("part");
        let bad = |problem: String| EngineError::WriteFile { path: path.to_path_buf(), problem };
        let header = Metadata::new(Some(format), infos).map_err(|e| bad(e.to_string()))?;
        let mut header = serde_json::to_vec(&header).map_err(|e| bad(e.to_string()))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let data = 8 + header.len();
        let file = File::create(&part).map_err(|e| bad(e.to_string()))?;
        let missing = places.into_iter().map(|(name, (at, len))| (name, ((data + at) as u64, len))).collect();
        let mut this = Self { path: path.to_path_buf(), part, file, missing, finished: false };
        this.put(0, &(header.len() as u64).to_le_bytes())?;
        this.put(8, &header)?;
        Ok(this)
    }

    /// Writes one tensor.
    ///
    /// Errors if the file has no such tensor still to come, of that size.
    pub(crate) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        match self.missing.remove(name) {
            Some((at, len)) if len == bytes.len() => self.put(at, bytes),
            place => {
                let expected = place.map_or(0, |(_, len)| len);
                Err(self
                    .failed(format!("tensor `{name}` has {} bytes; {expected} were announced", bytes.len())))
            }
        }
    }

    /// Gives the file its name.
    ///
    /// Errors if a tensor is missing.
    pub(crate) fn finish(mut self) -> Result<()> {
        if let Some(name) = self.missing.keys().next() {
            return Err(self.failed(format!("tensor `{name}` was not made")));
        }
        // What comes after a crash is the whole file, or none.
        self.file.sync_all().map_err(|e| self.failed(e.to_string()))?;
        std::fs::rename(&self.part, &self.path).map_err(|e| self.failed(e.to_string()))?;
        self.finished = true;
        Ok(())
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|e| self.failed(e.to_string()))
    }

    fn failed(&self, problem: String) -> EngineError {
        EngineError::WriteFile { path: self.path.clone(), problem }
    }
}

impl Drop for TensorFile {
    fn drop(&mut self) {
        if !self.finished {
            // Half of it would be taken for the whole by size alone.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}
