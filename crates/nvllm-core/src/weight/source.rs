//! Where weights come from.

use std::ops::Range;

use super::{CanonicalTensor, TensorInfo};
use crate::Result;

/// Where weights come from: a checkpoint, a quantiser, a generator. Tensors are asked for one at a
/// time, so host memory never holds a second copy.
pub trait WeightSource {
    /// What to call this source in a message.
    fn describe(&self) -> String;
    /// Every tensor name.
    fn names(&self) -> Vec<String>;
    /// Shape and format of one tensor. Reads none of its bytes.
    fn info(&self, name: &str) -> Result<TensorInfo>;
    /// One tensor in canonical form. A backend asks for each once: it may be quantised or drawn on
    /// the way.
    fn tensor(&self, name: &str) -> Result<CanonicalTensor>;
    /// Some rows of one tensor, as a matrix. A source that codes or decodes on the way does so for
    /// these rows only: what holds many weights in one is asked for each of them.
    ///
    /// Errors as [`slice_rows`](CanonicalTensor::slice_rows) does.
    fn rows(&self, name: &str, rows: Range<usize>) -> Result<CanonicalTensor> {
        self.tensor(name)?.slice_rows(name, rows)
    }
}

impl<S: WeightSource + ?Sized> WeightSource for &S {
    fn describe(&self) -> String {
        (**self).describe()
    }

    fn names(&self) -> Vec<String> {
        (**self).names()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        (**self).info(name)
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        (**self).tensor(name)
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<CanonicalTensor> {
        (**self).rows(name, rows)
    }
}
