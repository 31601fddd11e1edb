//! Weights in device memory: matrices as the checkpoint has them, `[n, k]` row-major; vectors as f32.

use std::sync::Arc;

use nvllm_core::{Code, CoreError, DType, ModelSpec, WeightId, WeightSource};

use crate::device::Device;
use crate::memory::{Address, Buffer};

/// One weight.
pub(crate) struct Weight {
    buffer: Buffer,
    pub dtype: DType,
}

/// All weights of a model, by id.
pub(crate) struct Weights(Vec<Weight>);

/// The dtype in which a weight is held: that of its parts, f32 where they differ, which is exact.
fn held(weight: &nvllm_core::Weight) -> nvllm_core::Result<DType> {
    let mut dtypes = weight.segments.iter().map(|segment| match segment.format.code {
        Code::Dense(dtype @ (DType::F32 | DType::F16 | DType::Bf16)) => Ok(dtype),
        ref code => Err(CoreError::Unsupported {
            backend: "cuda".into(),
            op: format!("weight `{}` coded as {code:?}", weight.decl.name),
            reason: "dense f32, f16 and bf16 weights are read".into(),
        }),
    });
    let first = dtypes.next().unwrap_or(Ok(DType::F32))?;
    let vector = weight.decl.shape.len() < 2;
    let same = dtypes.try_fold(true, |same, dtype| Ok::<_, CoreError>(same && dtype? == first))?;
    Ok(if same && !vector { first } else { DType::F32 })
}

/// Bytes that the weights of `spec` will take.
pub(crate) fn bytes_for(spec: &ModelSpec, source: &dyn WeightSource) -> nvllm_core::Result<usize> {
    let one = |decl| {
        let weight = nvllm_core::Weight::load(decl, source)?;
        Ok(held(&weight)?.size() * decl.num_elements())
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
            let weight = nvllm_core::Weight::load(decl, source)?;
            let dtype = held(&weight)?;
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
            Ok(Weight { buffer, dtype })
        };
        spec.weights.iter().map(one).collect::<nvllm_core::Result<_>>().map(Self)
    }

    pub(crate) fn get(&self, id: WeightId) -> (Address, DType) {
        let weight = &self.0[id.index()];
        (weight.buffer.at(0), weight.dtype)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|weight| weight.buffer.len()).sum()
    }
}
