//! What leaves a backend: rows of logits, kept values, KV blocks.

use crate::{DType, Result};

/// A dense, row-major tensor that a backend hands out. It outlives its step, and may be copied to
/// the host on another thread than the backend's.
pub trait Tensor: Send {
    /// Extents, outermost first.
    fn shape(&self) -> &[usize];
    /// Element type.
    fn dtype(&self) -> DType;
    /// A copy in host memory.
    fn to_host(&self) -> Result<HostTensor>;
}

/// A dense, row-major tensor in host memory, little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTensor {
    shape: Vec<usize>,
    dtype: DType,
    bytes: Vec<u8>,
}

impl HostTensor {
    /// Rounds `values` to `dtype` and lays them out.
    ///
    /// # Panics
    /// If `shape` and `values` disagree in size: a fault in the caller.
    pub fn from_f32(shape: impl Into<Vec<usize>>, dtype: DType, values: &[f32]) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "shape {shape:?}");
        let mut bytes = Vec::with_capacity(values.len() * dtype.size());
        values.iter().for_each(|&x| dtype.write(x, &mut bytes));
        Self { shape, dtype, bytes }
    }

    /// Takes `bytes` as they are.
    ///
    /// # Panics
    /// If `shape` and `bytes` disagree in size: a fault in the caller.
    pub fn from_bytes(shape: impl Into<Vec<usize>>, dtype: DType, bytes: Vec<u8>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>() * dtype.size(), bytes.len(), "shape {shape:?}");
        Self { shape, dtype, bytes }
    }

    /// The elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        (0..self.bytes.len() / self.dtype.size()).map(|i| self.dtype.read(&self.bytes, i)).collect()
    }

    /// Row `index` of a matrix.
    pub(crate) fn row(&self, index: usize) -> Self {
        let cols = self.shape[self.shape.len() - 1];
        let len = cols * self.dtype.size();
        Self::from_bytes([cols], self.dtype, self.bytes[index * len..][..len].to_vec())
    }

    /// Whether no element is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        self.to_f32().iter().all(|x| x.is_finite())
    }

    /// The raw little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Tensor for HostTensor {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn to_host(&self) -> Result<HostTensor> {
        Ok(self.clone())
    }
}
