//! What several of these tests need.

use nvllm_core::{CanonicalTensor, Result, TensorInfo, WeightSource};

/// A source of one tensor.
pub(crate) struct One(pub(crate) CanonicalTensor);

impl WeightSource for One {
    fn describe(&self) -> String {
        "one".into()
    }

    fn names(&self) -> Vec<String> {
        vec!["w".into()]
    }

    fn info(&self, _: &str) -> Result<TensorInfo> {
        Ok(self.0.info())
    }

    fn tensor(&self, _: &str) -> Result<CanonicalTensor> {
        Ok(self.0.clone())
    }
}
