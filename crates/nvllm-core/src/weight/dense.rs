//! The reader of unquantised checkpoints: tensors in f32, f16 and bf16 as they are.

use super::{CanonicalTensor, Checkpoint, RawTensor, TensorInfo, WeightSource};
use crate::{CoreError, DType, Result};

/// The dense tensors of a checkpoint. Tensors of other types are listed, and refused when they are
/// asked for.
pub struct DenseSource(Box<dyn Checkpoint + Send + Sync>);

impl DenseSource {
    /// Every tensor of `checkpoint` under its own name.
    pub fn new(checkpoint: impl Checkpoint + Send + Sync + 'static) -> Self {
        Self(Box::new(checkpoint))
    }

    /// What lies under `name`, and as what.
    fn find(&self, name: &str) -> Result<(RawTensor, DType)> {
        let raw = self.0.raw(name)?;
        let dtype = match raw.dtype.as_str() {
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::Bf16,
            other => {
                let problem = format!("has dtype {other}; weights in f32, f16 and bf16 can be read");
                return Err(CoreError::BadTensor { name: name.into(), problem });
            }
        };
        Ok((raw, dtype))
    }
}

impl WeightSource for DenseSource {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        let (raw, dtype) = self.find(name)?;
        Ok(TensorInfo::dense(dtype, raw.shape))
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        let (raw, dtype) = self.find(name)?;
        Ok(CanonicalTensor::dense(dtype, raw.shape, raw.bytes))
    }
}
