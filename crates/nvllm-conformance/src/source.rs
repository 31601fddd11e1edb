//! Weights in memory.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use nvllm_core::{
    CanonicalTensor, CoreError, DType, Result, TensorInfo, WeightDecl, WeightFormat, WeightSource,
};

/// A checkpoint in memory: named tensors.
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
    /// The bytes begin at an odd address on purpose: a checkpoint's alignment is not the backend's
    /// to choose.
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

impl MemorySource {
    /// Tensors for every part of `decls` that have a shape and a format, and no bytes: what a plan
    /// is asked with.
    pub(crate) fn announced(decls: &[WeightDecl], format: impl Fn(&WeightDecl) -> WeightFormat) -> Self {
        let mut source = Self::new();
        for decl in decls {
            for part in &decl.parts {
                let (vector, rows) = (decl.shape.len() < 2, part.num_rows);
                let shape = if vector { vec![rows] } else { vec![rows, decl.num_cols()] };
                let empty = CanonicalTensor::dense(DType::Bf16, shape, Bytes::new());
                source.put(&part.source, CanonicalTensor { format: format(decl), ..empty });
            }
        }
        source
    }

    /// Adds the tensor `name` with the bytes of the tensor `other`.
    pub(crate) fn put_copy(&mut self, name: &str, other: &str) {
        if let Some(tensor) = self.tensors.get(other).cloned() {
            self.put(name, tensor);
        }
    }

    /// Puts `tensor` in place of the tensor `name`.
    pub(crate) fn put(&mut self, name: &str, tensor: CanonicalTensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// Puts what `change` makes of it in place of every tensor.
    pub(crate) fn change(&mut self, change: impl FnMut(&mut CanonicalTensor)) {
        self.tensors.values_mut().for_each(change);
    }

    /// Every tensor of `source`, each asked for once.
    pub(crate) fn copy_of(source: &dyn WeightSource) -> Result<Self> {
        let tensors = source.names().into_iter().map(|name| {
            let tensor = source.tensor(&name)?;
            Ok((name, tensor))
        });
        Ok(Self { tensors: tensors.collect::<Result<_>>()? })
    }

    fn find(&self, name: &str) -> Result<&CanonicalTensor> {
        let missing = || CoreError::MissingTensor { name: name.into(), place: self.describe() };
        self.tensors.get(name).ok_or_else(missing)
    }
}

/// A source that counts how often each tensor's bytes are asked for.
pub(crate) struct Counted<'a> {
    source: &'a dyn WeightSource,
    asked: RefCell<BTreeMap<String, usize>>,
}

impl<'a> Counted<'a> {
    pub(crate) fn new(source: &'a dyn WeightSource) -> Self {
        Self { source, asked: RefCell::default() }
    }

    /// A tensor whose bytes were asked for more than `most` times, and how often.
    pub(crate) fn beyond(&self, most: usize) -> Option<(String, usize)> {
        self.asked.borrow().iter().find(|(_, num)| **num > most).map(|(name, num)| (name.clone(), *num))
    }
}

impl WeightSource for Counted<'_> {
    fn describe(&self) -> String {
        self.source.describe()
    }

    fn names(&self) -> Vec<String> {
        self.source.names()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        self.source.info(name)
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        *self.asked.borrow_mut().entry(name.into()).or_default() += 1;
        self.source.tensor(name)
    }
}

impl WeightSource for MemorySource {
    fn describe(&self) -> String {
        "conformance weights".into()
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        self.find(name).map(CanonicalTensor::info)
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        self.find(name).cloned()
    }
}
