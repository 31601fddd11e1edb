//! One linear layer's tensors in a checkpoint.

use bytes::Bytes;
use half::{bf16, f16};
use nvllm_core::weight::{Checkpoint, RawTensor, ScaleType};
use nvllm_core::{CoreError, Result};

/// A module (`model.layers.0.mlp.up_proj`) whose weight is coded in several tensors.
pub(super) struct Module<'a> {
    pub(super) name: &'a str,
    pub(super) files: &'a dyn Checkpoint,
}

impl Module<'_> {
    /// The error that its weight cannot be read.
    pub(super) fn bad(&self, problem: impl Into<String>) -> CoreError {
        CoreError::BadTensor { name: format!("{}.weight", self.name), problem: problem.into() }
    }

    /// The tensor whose name ends in `end` (`.qweight`), if there is one.
    pub(super) fn find(&self, end: &str) -> Result<Option<Part>> {
        let name = format!("{}{end}", self.name);
        match self.files.raw(&name) {
            Ok(raw) => Ok(Some(Part { name, raw })),
            Err(CoreError::MissingTensor { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// The tensor whose name ends in `end`; an error if there is none.
    pub(super) fn part(&self, end: &str) -> Result<Part> {
        self.one_of(&[end])
    }

    /// The first that there is of the tensors whose names end in `ends`; an error if there is none.
    pub(super) fn one_of(&self, ends: &[&str]) -> Result<Part> {
        for end in ends {
            if let Some(part) = self.find(end)? {
                return Ok(part);
            }
        }
        Err(self.bad(format!("is coded without its `{}{}`", self.name, ends[0])))
    }
}

/// A tensor of a module.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) raw: RawTensor,
}

impl Part {
    /// The error that it cannot be read.
    pub(super) fn bad(&self, problem: impl Into<String>) -> CoreError {
        CoreError::BadTensor { name: self.name.clone(), problem: problem.into() }
    }

    /// Errors unless its type is one of `dtypes`, each with the bytes of an element, and it has as
    /// many bytes as its shape takes.
    pub(super) fn typed(self, dtypes: &[(&str, usize)]) -> Result<Self> {
        let Some((_, size)) = dtypes.iter().find(|(dtype, _)| *dtype == self.raw.dtype) else {
            let known: Vec<_> = dtypes.iter().map(|(dtype, _)| *dtype).collect();
            return Err(self.bad(format!("has dtype {}; {} is read", self.raw.dtype, known.join(" or "))));
        };
        let elements = self.raw.shape.iter().try_fold(1_usize, |n, &extent| n.checked_mul(extent));
        if elements.and_then(|n| n.checked_mul(*size)) != Some(self.raw.bytes.len()) {
            let (bytes, shape) = (self.raw.bytes.len(), &self.raw.shape);
            return Err(self.bad(format!("has {bytes} bytes, which are not those of its shape {shape:?}")));
        }
        Ok(self)
    }

    /// 32-bit words.
    pub(super) fn words(self) -> Result<Self> {
        self.typed(&[("I32", 4)])
    }

    /// Floating-point numbers.
    pub(super) fn floats(self) -> Result<Self> {
        self.typed(&[("F16", 2), ("BF16", 2), ("F32", 4)])
    }

    /// Its extents as a matrix.
    pub(super) fn matrix(&self) -> Result<[usize; 2]> {
        <[usize; 2]>::try_from(&self.raw.shape[..])
            .map_err(|_| self.bad(format!("has shape {:?}; a matrix is needed", self.raw.shape)))
    }

    /// Errors unless it has this shape, for the reason `why`.
    pub(super) fn shaped(self, shape: &[usize], why: &str) -> Result<Self> {
        if self.raw.shape == shape {
            return Ok(self);
        }
        Err(self.bad(format!("has shape {:?} where {shape:?} is needed: {why}", self.raw.shape)))
    }

    /// How a scale is stored in it.
    pub(super) fn scale_type(&self) -> ScaleType {
        match self.raw.dtype.as_str() {
            "F16" => ScaleType::F16,
            "BF16" => ScaleType::Bf16,
            _ => ScaleType::F32,
        }
    }

    /// Words of 32 bits, in order.
    pub(super) fn to_words(&self) -> Vec<u32> {
        self.raw.bytes.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect()
    }

    /// Its floating-point numbers as f32, exactly.
    pub(super) fn to_f32(&self) -> Vec<f32> {
        let pairs = || self.raw.bytes.as_chunks().0.iter().copied();
        match self.scale_type() {
            ScaleType::F16 => pairs().map(|bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
            ScaleType::Bf16 => pairs().map(|bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
            _ => self.to_words().into_iter().map(f32::from_bits).collect(),
        }
    }

    /// Its floating-point numbers as bytes of f32.
    pub(super) fn to_f32_bytes(&self) -> Bytes {
        f32_bytes(self.to_f32())
    }

    /// The one number that it holds; an error for none, several, or one that is no scale.
    pub(super) fn scale(&self) -> Result<f32> {
        match self.to_f32()[..] {
            [scale] if scale.is_finite() && scale > 0.0 => Ok(scale),
            [scale] => Err(self.bad(format!("is {scale}; a finite number above 0 is needed"))),
            _ => Err(self.bad(format!("has shape {:?}; one number is needed", self.raw.shape))),
        }
    }
}

/// Numbers as bytes.
pub(super) fn f32_bytes(numbers: impl IntoIterator<Item = f32>) -> Bytes {
    numbers.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>().into()
}
