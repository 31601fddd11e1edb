//! What a model declares about a weight.

use super::{Code, TensorInfo, WeightSource};
use crate::{CoreError, DType, Reason, Result};

/// What an axis of a weight means, from which the tensor-parallel rewrite shards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AxisRole {
    /// Not sharded.
    Replicated,
    /// Query heads.
    Heads,
    /// Key/value heads.
    KvHeads,
    /// Feed-forward columns.
    Ffn,
    /// Vocabulary.
    Vocab,
    /// Experts.
    Experts,
}

/// One checkpoint tensor that becomes consecutive rows of a weight (q, k and v; gate and up).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightPart {
    /// The tensor's name in the checkpoint.
    pub source: String,
    /// Rows it contributes.
    pub num_rows: usize,
    /// Meaning of those rows.
    pub role: AxisRole,
}

/// A logical weight: `[n]` (norms, biases), `[n, k]` (tables, linear layers) or `[E, n, k]`
/// (experts).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightDecl {
    /// Logical name, as the program's display shows it.
    pub name: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Checkpoint tensors in row order.
    pub parts: Vec<WeightPart>,
    /// Meaning of the input axis (the last).
    pub in_role: AxisRole,
}

impl WeightDecl {
    /// Columns of one row; a vector has one column.
    pub fn num_cols(&self) -> usize {
        if self.shape.len() < 2 { 1 } else { self.shape[self.shape.len() - 1] }
    }

    /// Rows: every extent but the last, multiplied; a vector has one row an element.
    pub fn num_rows(&self) -> usize {
        self.num_elements() / self.num_cols()
    }

    /// Elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The error of `backend`, which does not run this weight for `reason`.
    pub fn refused(&self, backend: impl Into<String>, Reason(reason): Reason) -> CoreError {
        CoreError::Unsupported { backend: backend.into(), op: format!("weight `{}`", self.name), reason }
    }

    /// What `source` has as `part` of this weight, if it can be that.
    pub(super) fn part_info(&self, part: &WeightPart, source: &dyn WeightSource) -> Result<TensorInfo> {
        let tensor = source.info(&part.source)?;
        let bad = |problem| Err(CoreError::BadTensor { name: part.source.clone(), problem });
        let expected =
            if self.shape.len() < 2 { vec![part.num_rows] } else { vec![part.num_rows, self.num_cols()] };
        if tensor.shape != expected {
            return bad(format!(
                "has shape {:?} where the configuration implies {expected:?}; they do not belong together",
                tensor.shape
            ));
        }
        if let Code::Dense(dtype) = tensor.format.code
            && !matches!(dtype, DType::F32 | DType::F16 | DType::Bf16)
        {
            return bad(format!("is {dtype}; weights in f32, f16 and bf16 can be read"));
        }
        if let Some(fault) = tensor.format.fault() {
            return bad(format!("has a format that cannot be: {fault}"));
        }
        if self.shape.len() < 2 && tensor.format.plain().is_none() {
            return bad(format!("is a vector in the format {}; vectors are dense", tensor.format));
        }
        Ok(tensor)
    }
}
