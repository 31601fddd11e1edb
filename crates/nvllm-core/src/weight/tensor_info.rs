//! What is known of a tensor apart from its bytes.

use super::{Offset, WeightFormat};
use crate::DType;

/// A tensor's extents, outermost first, and its format.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorInfo {
    /// Extents, outermost first; the last is the reduction length of a linear layer.
    pub shape: Vec<usize>,
    /// How its elements are coded.
    pub format: WeightFormat,
}

/// Rows and columns of the matrix that a tensor is taken as; a vector has one column.
pub(super) fn extents(shape: &[usize]) -> [usize; 2] {
    let (cols, outer) =
        if shape.len() < 2 { (1, shape) } else { (shape[shape.len() - 1], &shape[..shape.len() - 1]) };
    [outer.iter().fold(1, |rows: usize, &extent| rows.saturating_mul(extent)), cols]
}

impl TensorInfo {
    /// A dense tensor.
    pub fn dense(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), format: WeightFormat::dense(dtype) }
    }

    /// Bytes of the canonical tensor: codes, scales and offsets of both levels, column order, input
    /// scale.
    pub fn bytes(&self) -> usize {
        let [_, cols] = extents(&self.shape);
        let perm = if self.format.permuted { cols.saturating_mul(size_of::<u32>()) } else { 0 };
        let act = if self.format.act.is_some_and(super::ActQuant::is_static) { size_of::<f32>() } else { 0 };
        self.sizes().into_iter().fold(perm.saturating_add(act), usize::saturating_add)
    }

    /// Bytes of each of [`parts`](super::CanonicalTensor::parts).
    pub(super) fn sizes(&self) -> [usize; 5] {
        let [rows, _] = extents(&self.shape);
        let (bytes, units) = (self.row_bytes(), self.rows_of_blocks());
        std::array::from_fn(|i| rows.div_ceil(units[i]).saturating_mul(bytes[i]))
    }

    /// Bytes of one row of items of each part; 0 for a part that the format does not have.
    pub(super) fn row_bytes(&self) -> [usize; 5] {
        let [_, cols] = extents(&self.shape);
        let row = |block: usize, bits: usize| cols.div_ceil(block).saturating_mul(bits).div_ceil(8);
        let mut bytes = [row(1, self.format.code.bits()), 0, 0, 0, 0];
        let Some(scales) = self.format.scales else { return bytes };
        let width = scales.block[1];
        bytes[1] = row(width, scales.kind.bits());
        bytes[2] = match self.format.offset {
            Offset::None | Offset::Midpoint => 0,
            Offset::Int => row(width, self.format.code.bits()),
            Offset::Float => row(width, scales.kind.bits()),
        };
        if let Some(second) = scales.second {
            bytes[3] = row(second.block[1], second.kind.bits());
            bytes[4] = if self.format.offset == Offset::Float { bytes[3] } else { 0 };
        }
        bytes
    }

    /// Rows of elements that one row of items of each part stands for.
    pub(super) fn rows_of_blocks(&self) -> [usize; 5] {
        let first = self.format.scales.map_or(1, |scales| scales.block[0]);
        let second = self.format.scales.and_then(|scales| scales.second).map_or(1, |second| second.block[0]);
        [1, first, first, second, second]
    }
}

/// The formats among `parts`, those of most bytes first.
pub fn formats<'a>(parts: impl IntoIterator<Item = &'a TensorInfo>) -> Vec<WeightFormat> {
    let mut sizes: Vec<(usize, WeightFormat)> = Vec::new();
    for part in parts {
        match sizes.iter_mut().find(|(_, format)| *format == part.format) {
            Some((size, _)) => *size += part.bytes(),
            None => sizes.push((part.bytes(), part.format)),
        }
    }
    sizes.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    sizes.into_iter().map(|(_, format)| format).collect()
}
