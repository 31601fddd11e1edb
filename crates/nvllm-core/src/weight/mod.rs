//! Weights: what a model declares, what a checkpoint delivers, and the canonical form between them.

mod adapt;
mod decl;
mod format;
mod info;
mod safetensors;
mod synthetic;

pub use decl::{AxisRole, WeightDecl, WeightPart};
pub use format::{ActQuant, Code, Offset, ScaleType, WeightFormat};
pub use info::{TensorInfo, WeightInfo};
pub use safetensors::SafetensorsSource;
pub use synthetic::SyntheticSource;

use bytes::Bytes;

use crate::{CoreError, DType, Result};

/// A tensor in canonical form: codes, and for quantised formats their scales and offsets.
///
/// Dense tensors hold their elements row-major in `codes`. The bytes may lie in a mapped file: cloning is free and
/// holds the mapping alive.
#[derive(Clone, Debug)]
pub struct CanonicalTensor {
    /// How to read `codes`.
    pub format: WeightFormat,
    /// Extents, outermost first; the last is the reduction length of a linear layer.
    pub shape: Vec<usize>,
    /// Packed elements, row-major.
    pub codes: Bytes,
    /// One scale a block, row-major; empty for dense tensors.
    pub scales: Bytes,
    /// One offset a block, row-major; empty where the format has none.
    pub offsets: Bytes,
}

impl CanonicalTensor {
    /// A dense tensor over `codes`.
    pub fn dense(dtype: DType, shape: impl Into<Vec<usize>>, codes: Bytes) -> Self {
        let format = WeightFormat::dense(dtype);
        Self { format, shape: shape.into(), codes, scales: Bytes::new(), offsets: Bytes::new() }
    }

    /// Columns of one row; a vector has one column.
    pub fn num_cols(&self) -> usize {
        if self.shape.len() < 2 { 1 } else { self.shape[self.shape.len() - 1] }
    }

    /// Rows: every extent but the last, multiplied; a vector has one row an element.
    pub fn num_rows(&self) -> usize {
        let outer = if self.shape.len() < 2 { &self.shape[..] } else { &self.shape[..self.shape.len() - 1] };
        outer.iter().product()
    }

    /// What is known of it apart from its bytes.
    pub fn info(&self) -> TensorInfo {
        TensorInfo { shape: self.shape.clone(), format: self.format.clone() }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.scales.len() + self.offsets.len()
    }
}

/// Where weights come from: a checkpoint, a quantiser, a generator. Tensors are asked for one at a time, so host
/// memory never holds a second copy.
pub trait WeightSource {
    /// What to call this source in a message.
    fn describe(&self) -> String;
    /// Every tensor name.
    fn names(&self) -> Vec<String>;
    /// Shape and format of one tensor. Reads none of its bytes.
    fn info(&self, name: &str) -> Result<TensorInfo>;
    /// One tensor in canonical form. A backend asks for each once: it may be quantised or drawn on the way.
    fn tensor(&self, name: &str) -> Result<CanonicalTensor>;
}

/// A declared weight with its data: row segments in declaration order, each as its checkpoint part delivered it.
#[derive(Clone, Debug)]
pub struct Weight {
    /// What the model declared.
    pub decl: WeightDecl,
    /// Consecutive runs of rows.
    pub segments: Vec<CanonicalTensor>,
}

impl Weight {
    /// Fetches every part of `decl`, checking shapes and dtypes.
    pub fn load(decl: &WeightDecl, source: &dyn WeightSource) -> Result<Self> {
        let segments = decl
            .parts
            .iter()
            .map(|part| {
                decl.part_info(part, source)?;
                source.tensor(&part.source)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { decl: decl.clone(), segments })
    }

    /// Bytes over all segments.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(CanonicalTensor::bytes).sum()
    }

    /// Row `row` as f32 into `out` (`num_cols` long): the primitive that every format has.
    pub fn dequant_row(&self, mut row: usize, out: &mut [f32]) -> Result<()> {
        for segment in &self.segments {
            if row < segment.num_rows() {
                return dequant_row(segment, row, out);
            }
            row -= segment.num_rows();
        }
        let problem = format!("row {row} past the end of {:?}", self.decl.shape);
        Err(CoreError::BadTensor { name: self.decl.name.clone(), problem })
    }

    /// All rows as f32.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let (n, k) = (self.decl.num_rows(), self.decl.num_cols());
        let mut out = vec![0.0; n * k];
        for (row, chunk) in out.chunks_mut(k).enumerate() {
            self.dequant_row(row, chunk)?;
        }
        Ok(out)
    }
}

fn dequant_row(tensor: &CanonicalTensor, row: usize, out: &mut [f32]) -> Result<()> {
    let Code::Dense(dtype) = tensor.format.code else {
        return Err(CoreError::Unsupported {
            backend: "core".into(),
            op: format!("weights coded as {:?}", tensor.format.code),
            reason: "dense f32, f16 and bf16 weights can be read".into(),
        });
    };
    let start = row * tensor.num_cols();
    out.iter_mut().enumerate().for_each(|(i, x)| *x = dtype.read(&tensor.codes, start + i));
    Ok(())
}
