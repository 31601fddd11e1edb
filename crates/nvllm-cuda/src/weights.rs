//! Weights in device memory: matrices as the checkpoint has them, `[n, k]` row-major; vectors as f32.

use std::sync::Arc;

use nvllm_core::{Code, CoreError, DType, ModelSpec, WeightDecl, WeightId, WeightInfo, WeightSource};

use crate::device::Device;
use crate::memory::{Address, Buffer};

/// One weight.
pub(crate) struct Weight {
    buffer: Buffer,
    pub dtype: DType,
    /// A vector of bf16 as it is stored too: exact, and what fast kernels read.
    narrow: Option<Buffer>,
}

/// Addresses of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vector {
    /// As f32.
    pub wide: Address,
    /// As bf16; 0 if that would not be exact.
    pub narrow: Address,
}

/// All weights of a model, by id.
pub(crate) struct Weights(Vec<Weight>);

/// The dtype in which a weight is held: that of its parts, f32 where they differ, which is exact.
fn held(decl: &WeightDecl, info: &WeightInfo) -> nvllm_core::Result<DType> {
    let mut dtypes = info.parts.iter().map(|part| match part.format.code {
        Code::Dense(dtype @ (DType::F32 | DType::F16 | DType::Bf16)) => Ok(dtype),
        ref code => Err(CoreError::Unsupported {
            backend: "cuda".into(),
            op: format!("weight `{}` coded as {code:?}", decl.name),
            reason: "dense f32, f16 and bf16 weights are read".into(),
        }),
    });
    let first = dtypes.next().unwrap_or(Ok(DType::F32))?;
    let vector = decl.shape.len() < 2;
    let same = dtypes.try_fold(true, |same, dtype| Ok::<_, CoreError>(same && dtype? == first))?;
    Ok(if same && !vector { first } else { DType::F32 })
}

/// Whether a weight is a vector that is stored as bf16.
fn narrow(decl: &WeightDecl, info: &WeightInfo) -> bool {
    decl.shape.len() < 2 && info.parts.iter().all(|part| part.format.code == Code::Dense(DType::Bf16))
}

/// Which weights of `spec` are vectors stored as bf16, by id.
pub(crate) fn narrow_vectors(spec: &ModelSpec, source: &dyn WeightSource) -> nvllm_core::Result<Vec<bool>> {
    spec.weights.iter().map(|decl| Ok(narrow(decl, &WeightInfo::of(decl, source)?))).collect()
}

/// Bytes that the weights of `spec` will take.
pub(crate) fn bytes_for(spec: &ModelSpec, source: &dyn WeightSource) -> nvllm_core::Result<usize> {
    let one = |decl| {
        let info = WeightInfo::of(decl, source)?;
        let size = held(decl, &info)?.size() + if narrow(decl, &info) { DType::Bf16.size() } else { 0 };
        Ok(size * decl.num_elements())
    };
    spec.weights.iter().map(one).sum()
}

impl Weights {
    /// Copies every weight to the device, one part after another.
    pub(crate) fn load(
        device: &Arc<Device>,
        spec: &ModelSpec,
        source: &dyn WeightSource,
    ) -> nvllm_core::Result<Self> {
        let one = |decl| {
            let info = WeightInfo::of(decl, source)?;
            let dtype = held(decl, &info)?;
            let weight = nvllm_core::Weight::load(decl, source)?;
            let buffer = Buffer::new(device, dtype.size() * decl.num_elements())?;
            let as_is = weight.segments.iter().all(|s| s.format.code == Code::Dense(dtype));
            if as_is {
                let mut at = 0;
                for segment in &weight.segments {
                    buffer.write(at, &segment.codes)?;
                    at += segment.codes.len();
                }
            } else {
                buffer.write(0, bytemuck::cast_slice(&weight.to_f32()?))?;
            }
            let narrow = narrow(decl, &info)
                .then(|| {
                    Buffer::of(
                        device,
                        &weight.segments.iter().flat_map(|s| &*s.codes).copied().collect::<Vec<_>>(),
                    )
                })
                .transpose()?;
            Ok(Weight { buffer, dtype, narrow })
        };
        spec.weights.iter().map(one).collect::<nvllm_core::Result<_>>().map(Self)
    }

    pub(crate) fn get(&self, id: WeightId) -> (Address, DType) {
        let weight = &self.0[id.index()];
        (weight.buffer.at(0), weight.dtype)
    }

    /// A vector's places.
    pub(crate) fn vector(&self, id: WeightId) -> Vector {
        let weight = &self.0[id.index()];
        Vector { wide: weight.buffer.at(0), narrow: weight.narrow.as_ref().map_or(0, |narrow| narrow.at(0)) }
    }

    pub(crate) fn bytes(&self) -> usize {
        let one = |weight: &Weight| weight.buffer.len() + weight.narrow.as_ref().map_or(0, Buffer::len);
        self.0.iter().map(one).sum()
    }
}
