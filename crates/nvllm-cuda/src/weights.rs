//! Weights in device memory: matrices as the checkpoint has them, `[n, k]` row-major, dense or as
//! [`coded`] has them; vectors as f32.

use std::sync::Arc;

use nvllm_core::{DType, ModelSpec, Plan, WeightDecl, WeightId, WeightInfo, WeightSource};

use crate::coded::{self, Run};
use crate::device::Device;
use crate::memory::{Address, Buffer};
use crate::upload::{Part, Uploading};

/// One weight.
enum Weight {
    Dense {
        buffer: Arc<Buffer>,
        dtype: DType,
        /// A vector of bf16 as it is stored too: exact, and what fast kernels read.
        narrow: Option<Buffer>,
    },
    Coded(Vec<Run>),
}

/// A matrix as kernels take it.
#[derive(Clone, Copy)]
pub(crate) enum Matrix<'a> {
    Dense(Address, DType),
    /// Runs of rows, ascending.
    Coded(&'a [Run]),
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

/// How a weight is stored.
enum Storage {
    /// In the dtype of its parts, f32 where they differ, which is exact. Vectors are f32.
    Dense(DType),
    Coded(Vec<coded::Extent>),
}

/// Errors if a part has a format that no kernel runs.
fn storage(decl: &WeightDecl, info: &WeightInfo) -> nvllm_core::Result<Storage> {
    let Ok(dtypes) = info.plain() else {
        return coded::runs(info).map(Storage::Coded).map_err(|reason| decl.refused("cuda", reason));
    };
    let same = dtypes.windows(2).all(|pair| pair[0] == pair[1]);
    let dtype = dtypes.first().copied().filter(|_| same && decl.shape.len() > 1).unwrap_or(DType::F32);
    Ok(Storage::Dense(dtype))
}

/// Whether all parts are stored as bf16, so that a bf16 copy of a vector is exact.
pub(crate) fn narrow(info: &WeightInfo) -> bool {
    info.parts.iter().all(|part| part.format.plain() == Some(DType::Bf16))
}

/// Bytes that the weights will take.
pub(crate) fn bytes_for(plan: &Plan) -> nvllm_core::Result<usize> {
    let one = |(decl, info): (&WeightDecl, &WeightInfo)| match storage(decl, info)? {
        Storage::Dense(dtype) => {
            let copy = if decl.shape.len() < 2 && narrow(info) { DType::Bf16.size() } else { 0 };
            Ok((dtype.size() + copy) * decl.num_elements())
        }
        Storage::Coded(runs) => Ok(runs.iter().map(coded::Extent::bytes).sum()),
    };
    plan.spec.weights.iter().zip(&plan.weights).map(one).sum()
}

impl Weight {
    /// Makes a weight in device memory. Of what is there as the checkpoint has it the bytes are
    /// left to be uploaded.
    fn load(
        device: &Arc<Device>,
        decl: &WeightDecl,
        source: &dyn WeightSource,
        uploads: &mut Vec<Part>,
    ) -> nvllm_core::Result<Self> {
        let info = WeightInfo::of(decl, source)?;
        let dtype = match storage(decl, &info)? {
            Storage::Dense(dtype) => dtype,
            Storage::Coded(runs) => {
                let parts = nvllm_core::Weight::load(decl, source)?.segments;
                let load = |of: coded::Extent| {
                    let parts = &parts[of.parts.clone()];
                    Run::load(device, of, parts).map_err(Into::into)
                };
                return runs.into_iter().map(load).collect::<nvllm_core::Result<_>>().map(Self::Coded);
            }
        };
        let weight = nvllm_core::Weight::load(decl, source)?;
        let buffer = Arc::new(Buffer::new(device, dtype.size() * decl.num_elements())?);
        let as_is = weight.segments.iter().all(|s| s.format.plain() == Some(dtype));
        if as_is {
            let mut offset = 0;
            for segment in &weight.segments {
                let bytes = segment.codes.clone();
                uploads.push(Part { to: Arc::clone(&buffer), offset, bytes });
                offset += segment.codes.len();
            }
        } else {
            buffer.write(0, bytemuck::cast_slice(&weight.to_f32()?))?;
        }
        let bytes = || weight.segments.iter().flat_map(|s| &*s.codes).copied().collect::<Vec<_>>();
        let copied = decl.shape.len() < 2 && narrow(&info);
        let narrow = copied.then(|| Buffer::of(device, &bytes())).transpose()?;
        Ok(Self::Dense { buffer, dtype, narrow })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Dense { buffer, narrow, .. } => buffer.len() + narrow.as_ref().map_or(0, Buffer::len),
            Self::Coded(runs) => runs.iter().map(Run::bytes).sum(),
        }
    }
}

impl Weights {
    /// Makes every weight in device memory; they are there when the uploads are done.
    pub(crate) fn load(
        device: &Arc<Device>,
        spec: &ModelSpec,
        source: &dyn WeightSource,
    ) -> nvllm_core::Result<(Self, Uploading)> {
        let mut uploads = Vec::new();
        let one = |decl| Weight::load(device, decl, source, &mut uploads);
        let all = spec.weights.iter().map(one).collect::<nvllm_core::Result<_>>()?;
        Ok((Self(all), Uploading::start(device, uploads)))
    }

    pub(crate) fn get(&self, id: WeightId) -> Matrix<'_> {
        match &self.0[id.index()] {
            Weight::Dense { buffer, dtype, .. } => Matrix::Dense(buffer.at(0), *dtype),
            Weight::Coded(runs) => Matrix::Coded(runs),
        }
    }

    /// A vector's places; vectors are never coded.
    pub(crate) fn vector(&self, id: WeightId) -> Vector {
        match &self.0[id.index()] {
            Weight::Dense { buffer, narrow, .. } => {
                Vector { wide: buffer.at(0), narrow: narrow.as_ref().map_or(0, |narrow| narrow.at(0)) }
            }
            Weight::Coded(_) => Vector { wide: 0, narrow: 0 },
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(Weight::bytes).sum()
    }
}
