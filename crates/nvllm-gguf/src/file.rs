//! A GGUF model: one file, or the files that it was split into.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nvllm_core::weight::{Checkpoint, RawTensor, map_file};
use nvllm_core::{CoreError, Result};

use crate::header::{Header, Tensor};
use crate::metadata::Metadata;
use crate::split::SplitName;

const COUNT: &str = "split.count";
const NO: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// An open model. Cloning is free; the files stay mapped as long as a clone or a tensor lives.
#[derive(Clone, Debug)]
pub struct Gguf(Arc<Header>);

impl Gguf {
    /// Opens the file at `path` and, if it is one of a split model's, all others.
    ///
    /// Errors with [`Io`](CoreError::Io) if a file is missing, with
    /// [`BadCheckpoint`](CoreError::BadCheckpoint) if one is cut short or damaged, with
    /// [`UnsupportedCheckpoint`](CoreError::UnsupportedCheckpoint) if it is no GGUF file of
    /// version 2 or 3 or has tensors of unknown types, and with
    /// [`BadMetadata`](CoreError::BadMetadata).
    pub fn open(path: &Path) -> Result<Self> {
        let header = Header::read(path, &map_file(path)?)?;
        let count = header.metadata.u64_opt(COUNT)?.unwrap_or(1);
        if count <= 1 {
            return Ok(Self(Arc::new(header)));
        }
        match SplitName::of(path) {
            Some(split) if split.count == count => Self::open_parts(&split),
            _ => Err(misnamed(&header.metadata, count)),
        }
    }

    /// A model that lies in memory, under a name for messages. Errors as [`open`](Self::open) does,
    /// and if it is one file of several.
    pub fn from_bytes(name: &str, bytes: &Bytes) -> Result<Self> {
        let header = Header::read(Path::new(name), bytes)?;
        match header.metadata.u64_opt(COUNT)? {
            Some(count @ 2..) => Err(misnamed(&header.metadata, count)),
            _ => Ok(Self(Arc::new(header))),
        }
    }

    /// The first file has the metadata of all.
    fn open_parts(split: &SplitName) -> Result<Self> {
        let mut whole = open_part(split, 0)?;
        for no in 1..split.count {
            let part = open_part(split, no)?;
            for (name, tensor) in part.tensors {
                if whole.tensors.insert(name.clone(), tensor).is_some() {
                    let problem = format!("repeats tensor `{name}`, which another part of the model has");
                    return Err(CoreError::BadCheckpoint { path: split.part(no), problem });
                }
            }
        }
        let (found, total) = (whole.tensors.len() as u64, whole.metadata.u64_opt(TENSORS)?);
        if let Some(total) = total.filter(|&total| total != found) {
            let problem =
                format!("is {total}, and the {} files have {found}; download them again", split.count);
            return Err(whole.metadata.error(TENSORS, problem));
        }
        Ok(Self(Arc::new(whole)))
    }

    /// What the file says apart from its tensors.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.tensors.contains_key(name)
    }

    /// The tensor, or an error that it is missing.
    pub(crate) fn tensor(&self, name: &str) -> Result<&Tensor> {
        let missing = || CoreError::MissingTensor { name: name.into(), place: self.describe() };
        self.0.tensors.get(name).ok_or_else(missing)
    }
}

/// Opens the file of index `no` and checks that it is the one that its name says.
fn open_part(split: &SplitName, no: u64) -> Result<Header> {
    let (path, count) = (split.part(no), split.count);
    let bytes = map_file(&path).map_err(|error| missing(error, path.clone(), no, count))?;
    let header = Header::read(&path, &bytes)?;
    for (key, expected) in [(NO, no), (COUNT, count)] {
        let found = header.metadata.u64_opt(key)?;
        if found != Some(expected) {
            let found = found.map_or("missing".into(), |found| found.to_string());
            let problem =
                format!("is {found} where the file's name says {expected}; give it the name that it had");
            return Err(header.metadata.error(key, problem));
        }
    }
    Ok(header)
}

fn missing(error: CoreError, path: PathBuf, no: u64, count: u64) -> CoreError {
    match error {
        CoreError::Io { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound => {
            let cause =
                format!("file {} of {count} of the model is missing; put it beside the others", no + 1);
            CoreError::Io { path, cause: std::io::Error::new(std::io::ErrorKind::NotFound, cause) }
        }
        other => other,
    }
}

fn misnamed(metadata: &Metadata, count: u64) -> CoreError {
    let problem = format!(
        "is {count}: this is one of {count} files; name them NAME-00001-of-{count:05}.gguf and so on, side by side"
    );
    metadata.error(COUNT, problem)
}

impl Checkpoint for Gguf {
    fn describe(&self) -> String {
        self.0.metadata.path().display().to_string()
    }

    fn names(&self) -> Vec<String> {
        self.0.tensors.keys().cloned().collect()
    }

    /// The dtype is ggml's name of the type (`Q4_K`), the shape is outermost first.
    fn raw(&self, name: &str) -> Result<RawTensor> {
        let Tensor { kind, shape, bytes } = self.tensor(name)?;
        Ok(RawTensor { dtype: kind.name.into(), shape: shape.clone(), bytes: bytes.clone() })
    }
}
