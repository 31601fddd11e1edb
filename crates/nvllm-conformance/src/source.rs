//! Weights in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use nvllm_core::{CanonicalTensor, CoreError, DType, Result, WeightSource};

/// A checkpoint in memory: named dense tensors.
#[derive(Clone, Debug, Default)]
pub struct MemorySource {
    tensors: BTreeMap<String, CanonicalTensor>,
}

impl MemorySource {
    /// Nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the tensor `name` `shape`, its values rounded to `dtype` (f32, f16 or bf16).
    ///
    /// The bytes begin at an odd address on purpose: a checkpoint's alignment is not the backend's to choose.
    pub fn insert(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        values: impl IntoIterator<Item = f32>,
    ) {
        let mut bytes = vec![0xff];
        values.into_iter().for_each(|x| dtype.write(x, &mut bytes));
        let codes = Bytes::from(bytes).slice(1..);
        self.tensors.insert(name.into(), CanonicalTensor::dense(dtype, shape, codes));
    }
}

impl WeightSource for MemorySource {
    fn describe(&self) -> String {
        "conformance weights".into()
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        self.tensors
            .get(name)
            .cloned()
            .ok_or_else(|| CoreError::MissingTensor { name: name.into(), place: self.describe() })
    }
}
