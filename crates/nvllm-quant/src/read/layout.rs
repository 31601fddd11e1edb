//! What a scheme of quantisation knows: the tensors in which it stores a weight.

use bytes::Bytes;
use nvllm_core::weight::{TensorInfo, WeightFormat};
use nvllm_core::{CanonicalTensor, DType, Result};

use super::module::Module;

/// How the weight of a module lies in a checkpoint.
pub(super) trait Layout: std::fmt::Debug + Send + Sync {
    /// What config.json calls it.
    fn name(&self) -> &'static str;
    /// Ends of names of tensors of which every coded module has one, and no other module; the usual
    /// one first.
    fn marks(&self) -> &'static [&'static str];
    /// Ends of the names of all tensors that belong to a coded weight.
    fn parts(&self) -> &'static [&'static str];
    /// The weight's shape and format. Looks at no codes; errors unless all parts are there and fit.
    fn info(&self, module: &Module<'_>) -> Result<TensorInfo>;
    /// The weight, as announced.
    fn tensor(&self, module: &Module<'_>) -> Result<CanonicalTensor>;
}

/// A tensor with no bytes yet.
pub(super) fn empty(format: WeightFormat, shape: [usize; 2]) -> CanonicalTensor {
    CanonicalTensor { format, ..CanonicalTensor::dense(DType::F32, shape, Bytes::new()) }
}
