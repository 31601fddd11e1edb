//! What is known of weights apart from their bytes: plans, costs and the choice of kernels need no more.

use super::{WeightDecl, WeightFormat, WeightSource};
use crate::{DType, Result};

/// A tensor's extents, outermost first, and its format.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Extents, outermost first; the last is the reduction length of a linear layer.
    pub shape: Vec<usize>,
    /// How its elements are coded.
    pub format: WeightFormat,
}

impl TensorInfo {
    /// A dense tensor.
    pub fn dense(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), format: WeightFormat::dense(dtype) }
    }

    /// Bytes of all elements, scales and offsets included.
    pub fn bytes(&self) -> usize {
        (self.shape.iter().product::<usize>() as f64 * self.format.bits() / 8.0).ceil() as usize
    }
}

/// What is known of a declared weight: its parts in declaration order.
#[derive(Clone, Debug)]
pub struct WeightInfo {
    /// One for each part of the declaration.
    pub parts: Vec<TensorInfo>,
}

impl WeightInfo {
    /// Asks for every part of `decl`, checking shapes and dtypes.
    pub fn of(decl: &WeightDecl, source: &dyn WeightSource) -> Result<Self> {
        let part = |part| decl.part_info(part, source);
        Ok(Self { parts: decl.parts.iter().map(part).collect::<Result<_>>()? })
    }

    /// Bytes over all parts.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(TensorInfo::bytes).sum()
    }
}
