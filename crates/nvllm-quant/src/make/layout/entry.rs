//! A tensor of a file, and what is refused of one.

use nvllm_core::{CoreError, Result, TensorInfo};

/// A tensor of a file before its bytes are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its element type, as safetensors calls it.
    pub dtype: &'static str,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
}

impl Entry {
    pub(super) fn new(name: String, dtype: &'static str, shape: impl Into<Vec<usize>>) -> Self {
        Self { name, dtype, shape: shape.into() }
    }

    /// Bytes of its data.
    pub fn bytes(&self) -> usize {
        let width = match self.dtype {
            "I64" => 8,
            "F32" | "I32" => 4,
            "F16" | "BF16" => 2,
            _ => 1,
        };
        self.shape.iter().product::<usize>() * width
    }
}

/// Rows and columns of a coded tensor, if it is a matrix whose columns are runs of `run`.
pub(super) fn matrix(name: &str, info: &TensorInfo, run: usize, advice: &str) -> Result<[usize; 2]> {
    let bad = |problem: String| Err(CoreError::BadTensor { name: name.into(), problem });
    match info.shape[..] {
        [rows, cols] if cols.is_multiple_of(run) => Ok([rows, cols]),
        [_, cols] => bad(format!("has {cols} columns, which {run} does not divide{advice}")),
        _ => bad(format!("has shape {:?}; matrices are stored", info.shape)),
    }
}

/// The refusal of a format that the layout does not have.
pub(super) fn unknown(name: &str, info: &TensorInfo) -> CoreError {
    let problem = format!("is in {}, which this layout does not have", info.format);
    CoreError::BadTensor { name: name.into(), problem }
}
