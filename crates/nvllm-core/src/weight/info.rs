//! What is known of weights apart from their bytes: plans, costs and the choice of kernels need no
//! more.

use super::{TensorInfo, WeightDecl, WeightFormat, WeightSource};
use crate::{DType, Reason, Result};

/// What is known of a declared weight: its parts in declaration order. Parts may differ in format.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

    /// One part of `format`.
    pub fn uniform(decl: &WeightDecl, format: WeightFormat) -> Self {
        Self { parts: vec![TensorInfo { shape: decl.shape.clone(), format }] }
    }

    /// Bytes over all parts.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(TensorInfo::bytes).sum()
    }

    /// The element type of each part, for a backend that runs no coded weights.
    ///
    /// Errors with the format of the first part that is coded or quantises its input.
    pub fn plain(&self) -> Result<Vec<DType>, Reason> {
        let one = |part: &TensorInfo| {
            part.format.plain().ok_or_else(|| {
                let format = part.format;
                Reason(format!("its format is {format}; dense weights in f32, f16 and bf16 are run"))
            })
        };
        self.parts.iter().map(one).collect()
    }
}
