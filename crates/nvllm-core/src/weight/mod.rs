//! Weights: what a model declares, what a checkpoint delivers, and the canonical form between them.

mod act;
mod adapt;
mod arranged;
mod checkpoint;
mod decl;
mod dense;
mod dequantized;
mod expand;
mod format;
mod groups;
mod in_parallel;
mod info;
mod mapped;
pub mod pack;
pub mod public;
mod safetensors;
mod synthetic;
pub mod table;
pub mod tensor;
#[cfg(test)]
mod tests;

pub use act::{ActQuant, InputQuant};
pub use arranged::{Arranged, Place};
pub use checkpoint::{Checkpoint, RawTensor};
pub use decl::{AxisRole, WeightDecl, WeightPart};
pub use dense::DenseSource;
pub use dequantized::Dequantized;
pub use format::{Code, Offset, ScaleType, Scales, SecondScales, WHOLE, WeightFormat};
pub use in_parallel::in_parallel;
pub use info::{TensorInfo, WeightInfo, formats};
pub use mapped::map_file;
pub use public::PUBLIC;
pub use safetensors::Safetensors;
pub use synthetic::SyntheticSource;
pub use table::Table;
pub use tensor::CanonicalTensor;

use std::ops::Range;

use crate::{CoreError, Result};

/// Where weights come from: a checkpoint, a quantiser, a generator. Tensors are asked for one at a
/// time, so host memory never holds a second copy.
pub trait WeightSource {
    /// What to call this source in a message.
    fn describe(&self) -> String;
    /// Every tensor name.
    fn names(&self) -> Vec<String>;
    /// Shape and format of one tensor. Reads none of its bytes.
    fn info(&self, name: &str) -> Result<TensorInfo>;
    /// One tensor in canonical form. A backend asks for each once: it may be quantised or drawn on
    /// the way.
    fn tensor(&self, name: &str) -> Result<CanonicalTensor>;
    /// Some rows of one tensor, as a matrix. A source that codes or decodes on the way does so for
    /// these rows only: what holds many weights in one is asked for each of them.
    ///
    /// Errors as [`slice_rows`](CanonicalTensor::slice_rows) does.
    fn rows(&self, name: &str, rows: Range<usize>) -> Result<CanonicalTensor> {
        self.tensor(name)?.slice_rows(name, rows)
    }
}

impl<S: WeightSource + ?Sized> WeightSource for &S {
    fn describe(&self) -> String {
        (**self).describe()
    }

    fn names(&self) -> Vec<String> {
        (**self).names()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        (**self).info(name)
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        (**self).tensor(name)
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<CanonicalTensor> {
        (**self).rows(name, rows)
    }
}

/// A declared weight with its data: row segments in declaration order, each as its checkpoint part
/// delivered it.
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
        let segment = |part: &WeightPart| {
            let info = decl.part_info(part, source)?;
            let tensor = source.tensor(&part.source)?;
            if tensor.info() != info {
                let problem = format!(
                    "is {:?} in {} where the source has announced {:?} in {}",
                    tensor.shape, tensor.format, info.shape, info.format
                );
                return Err(CoreError::BadTensor { name: part.source.clone(), problem });
            }
            tensor.check(&part.source)?;
            Ok(tensor)
        };
        let segments = decl.parts.iter().map(segment).collect::<Result<_>>()?;
        Ok(Self { decl: decl.clone(), segments })
    }

    /// What is known of it apart from its bytes.
    pub fn info(&self) -> WeightInfo {
        WeightInfo { parts: self.segments.iter().map(CanonicalTensor::info).collect() }
    }

    /// Bytes over all segments.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(CanonicalTensor::bytes).sum()
    }

    /// Row `row` as f32 into `out` (`num_cols` long): the primitive that every format has.
    pub fn dequant_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let mut at = row;
        for segment in &self.segments {
            if at < segment.num_rows() {
                segment.dequant_row(at, out);
                return Ok(());
            }
            at -= segment.num_rows();
        }
        let problem = format!("row {row} past the end of {:?}", self.decl.shape);
        Err(CoreError::BadTensor { name: self.decl.name.clone(), problem })
    }

    /// Rows `first..` as f32, as many as fill `out`.
    pub fn dequant_rows(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let rows = out.chunks_mut(self.decl.num_cols()).enumerate();
        rows.into_iter().try_for_each(|(i, out)| self.dequant_row(first + i, out))
    }

    /// All rows as f32.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.decl.num_elements()];
        self.dequant_rows(0, &mut out)?;
        Ok(out)
    }
}
