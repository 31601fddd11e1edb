//! Weights in device memory: matrices as the checkpoint has them, `[n, k]` row-major; vectors as
//! f32.

use std::sync::Arc;

use nvllm_core::{DType, ModelSpec, Plan, WeightDecl, WeightId, WeightInfo, WeightSource};

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
/// Vectors are f32.
///
/// Errors if a part is coded.
fn held(decl: &WeightDecl, info: &WeightInfo) -> nvllm_core::Result<DType> {
    let dtypes = info.plain().map_err(|reason| decl.refused("cuda", reason))?;
    let same = dtypes.windows(2).all(|pair| pair[0] == pair[1]);
    Ok(dtypes.first().copied().filter(|_| same && decl.shape.len() > 1).unwrap_or(DType::F32))
}

/// Whether all parts are stored as bf16, so that a bf16 copy of a vector is exact.
pub(crate) fn narrow(info: &WeightInfo) -> bool {
    info.parts.iter().all(|part| part.format.plain() == Some(DType::Bf16))
}

/// Bytes that the weights will take.
pub(crate) fn bytes_for(plan: &Plan) -> nvllm_core::Result<usize> {
    let one = |(decl, info): (&WeightDecl, &WeightInfo)| {
        let copy = if decl.shape.len() < 2 && narrow(info) { DType::Bf16.size() } else { 0 };
        Ok((held(decl, info)?.size() + copy) * decl.num_elements())
    };
    plan.spec.weights.iter().zip(&plan.weights).map(one).sum()
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
            let as_is = weight.segments.iter().all(|s| s.format.plain() == Some(dtype));
            if as_is {
                let mut at = 0;
                for segment in &weight.segments {
                    buffer.write(at, &segment.codes)?;
                    at += segment.codes.len();
                }
            } else {
                buffer.write(0, bytemuck::cast_slice(&weight.to_f32()?))?;
            }
            let narrow = (decl.shape.len() < 2 && narrow(&info))
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
