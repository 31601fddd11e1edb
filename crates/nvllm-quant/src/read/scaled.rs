//! 8-bit weights stored as they are, `[n, k]`, beside their scales: what compressed-tensors' int8
//! and FP8 and the FP8 of transformers share.

use nvllm_core::weight::{ActQuant, Code, Offset, ScaleType, TensorInfo, WHOLE, WeightFormat};
use nvllm_core::{CanonicalTensor, Result};

use super::layout::empty;
use super::module::{Module, Part};

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocks {
    /// All elements.
    Tensor,
    /// A row.
    Channel,
    /// So many columns of a row.
    Group(usize),
    /// A rectangle of rows and columns.
    Block([usize; 2]),
}

impl Blocks {
    pub(super) fn extents(self) -> [usize; 2] {
        match self {
            Self::Tensor => [WHOLE, WHOLE],
            Self::Channel => [1, WHOLE],
            Self::Group(cols) => [1, cols],
            Self::Block(block) => block,
        }
    }

    /// Scales of a weight along each axis.
    pub(super) fn grid(self, [n, k]: [usize; 2]) -> [usize; 2] {
        let [rows, cols] = self.extents();
        [n.div_ceil(rows), k.div_ceil(cols)]
    }

    /// `scales` of a weight of `shape`: as many as there are blocks. One scale may be a scalar, one
    /// a row a vector.
    pub(super) fn check(self, scales: Part, shape: [usize; 2]) -> Result<Part> {
        let [rows, cols] = self.grid(shape);
        let given = &scales.raw.shape[..];
        if given == [rows, cols] || (cols == 1 && given == [rows]) || (rows * cols == 1 && given.is_empty()) {
            return Ok(scales);
        }
        let problem = format!("has shape {given:?} where [{rows}, {cols}] is needed for {shape:?}");
        Err(scales.bad(problem))
    }
}

/// How such weights are named and coded.
#[derive(Debug)]
pub(super) struct Scaled {
    pub(super) code: Code,
    pub(super) blocks: Blocks,
    pub(super) act: Option<ActQuant>,
    /// Ends of the names that the scales may have.
    pub(super) scale: &'static [&'static str],
    /// Whether codes have zero points.
    pub(super) asymmetric: bool,
}

impl Scaled {
    /// Scales of groups stay as they are; the others are few, and f32 for all kernels.
    fn format(&self, scales: &Part) -> WeightFormat {
        let kind = if matches!(self.blocks, Blocks::Group(_)) { scales.scale_type() } else { ScaleType::F32 };
        let offset = if self.asymmetric { Offset::Int } else { Offset::None };
        WeightFormat { act: self.act, ..WeightFormat::scaled(self.code, kind, self.blocks.extents(), offset) }
    }

    fn read(&self, module: &Module<'_>) -> Result<([usize; 2], Part, Part)> {
        let dtype = if self.code == Code::E4M3 { "F8_E4M3" } else { "I8" };
        let weight = module.part(".weight")?.typed(&[(dtype, 1)])?;
        let shape = weight.matrix()?;
        let scales = self.blocks.check(module.one_of(self.scale)?.floats()?, shape)?;
        if self.asymmetric {
            self.blocks.check(module.part(ZERO_POINT)?.typed(&[("I8", 1)])?, shape)?;
        } else {
            refuse_zero_point(module, ZERO_POINT)?;
        }
        Ok((shape, weight, scales))
    }

    pub(super) fn info(&self, module: &Module<'_>) -> Result<TensorInfo> {
        let (shape, _, scales) = self.read(module)?;
        static_scale(self.act, module)?;
        Ok(TensorInfo { shape: shape.into(), format: self.format(&scales) })
    }

    pub(super) fn tensor(&self, module: &Module<'_>) -> Result<CanonicalTensor> {
        let (shape, weight, scales) = self.read(module)?;
        let format = self.format(&scales);
        let groups = matches!(self.blocks, Blocks::Group(_));
        let offsets = if self.asymmetric { module.part(ZERO_POINT)?.raw.bytes } else { bytes::Bytes::new() };
        Ok(CanonicalTensor {
            codes: weight.raw.bytes.clone(),
            scales: if groups { scales.raw.bytes.clone() } else { scales.to_f32_bytes() },
            offsets,
            act_scale: static_scale(self.act, module)?,
            ..empty(format, shape)
        })
    }
}

pub(super) const INPUT_SCALE: &str = ".input_scale";
pub(super) const ZERO_POINT: &str = ".weight_zero_point";

/// Symmetric weights may come with zero points all the same, which have to be 0.
pub(super) fn refuse_zero_point(module: &Module<'_>, end: &str) -> Result<()> {
    match module.find(end)? {
        Some(points) if points.raw.bytes.iter().any(|&byte| byte != 0) => {
            Err(points.bad("is not 0 where the configuration says symmetric"))
        }
        _ => Ok(()),
    }
}

/// The static scale of the input, where there has to be one.
pub(super) fn static_scale(act: Option<ActQuant>, module: &Module<'_>) -> Result<Option<f32>> {
    if !act.is_some_and(ActQuant::is_static) {
        return Ok(None);
    }
    module.one_of(&[INPUT_SCALE, ".activation_scale"])?.floats()?.scale().map(Some)
}
