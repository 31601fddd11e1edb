//! A weight with its data.

use super::{CanonicalTensor, InputQuant, WeightDecl, WeightInfo, WeightPart, WeightSource};
use crate::{CoreError, Result};

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

    /// What each segment does to its input, in order.
    pub fn inputs(&self) -> Vec<InputQuant> {
        let one = |segment: &CanonicalTensor| InputQuant {
            num_rows: segment.num_rows(),
            act: segment.format.act,
            scale: segment.act_scale.unwrap_or(1.0),
        };
        self.segments.iter().map(one).collect()
    }
}
