//! A checkpoint as its files have it, before anybody says what it means.

use std::sync::Arc;

use bytes::Bytes;

use crate::Result;

/// A tensor as its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTensor {
    /// Element type, or block type, in the file format's own words (`BF16`, `F8_E4M3`, `I64`).
    pub dtype: String,
    /// Extents in the file's order, outermost first for safetensors.
    pub shape: Vec<usize>,
    /// All of its bytes. They may lie in a mapped file: cloning is free and holds the mapping
    /// alive.
    pub bytes: Bytes,
}

/// Named tensors of files in one format: what a reader of a weight format, dense or quantised,
/// makes canonical tensors of. No element type is refused here.
pub trait Checkpoint {
    /// What to call it in a message: the directory, the file.
    fn describe(&self) -> String;
    /// Every tensor's name, in a fixed order.
    fn names(&self) -> Vec<String>;
    /// One tensor; none of its bytes are looked at. Errors with
    /// [`MissingTensor`](crate::CoreError::MissingTensor) if there is none of that name.
    fn raw(&self, name: &str) -> Result<RawTensor>;
}

impl<C: Checkpoint + ?Sized> Checkpoint for Arc<C> {
    fn describe(&self) -> String {
        (**self).describe()
    }

    fn names(&self) -> Vec<String> {
        (**self).names()
    }

    fn raw(&self, name: &str) -> Result<RawTensor> {
        (**self).raw(name)
    }
}
