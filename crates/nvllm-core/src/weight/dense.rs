//! The reader of unquantised checkpoints: tensors in f32, f16 and bf16 as they are, under the names
//! that a model declares.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{CanonicalTensor, Checkpoint, RawTensor, TensorInfo, WeightSource};
use crate::{CoreError, DType, Result};

/// The dense tensors of a checkpoint. Tensors of other types are listed, and refused when they are
/// asked for.
pub struct DenseSource {
    pub(super) checkpoint: Box<dyn Checkpoint + Send + Sync>,
    /// Where each tensor lies, by the name under which it is asked for.
    pub(super) places: BTreeMap<String, Place>,
}

/// A tensor of the checkpoint, or some of its rows.
#[derive(Clone)]
pub(super) struct Place {
    /// Its name in the checkpoint.
    pub name: String,
    /// Rows of it, which make a matrix; none: the whole, in its own shape.
    pub rows: Option<Range<usize>>,
}

impl DenseSource {
    /// Every tensor of `checkpoint` under its own name.
    pub fn new(checkpoint: impl Checkpoint + Send + Sync + 'static) -> Self {
        let place = |name: String| (name.clone(), Place { name, rows: None });
        let places = checkpoint.names().into_iter().map(place).collect();
        Self { checkpoint: Box::new(checkpoint), places }
    }

    /// Whether there is a tensor of that name, of whatever type.
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Where `name` lies, what is there, and as what.
    fn find(&self, name: &str) -> Result<(&Place, RawTensor, DType)> {
        let missing = || CoreError::MissingTensor { name: name.into(), place: self.describe() };
        let place = self.places.get(name).ok_or_else(missing)?;
        let raw = self.checkpoint.raw(&place.name)?;
        let dtype = match raw.dtype.as_str() {
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::Bf16,
            other => {
                let problem = format!("has dtype {other}; weights in f32, f16 and bf16 can be read");
                return Err(CoreError::BadTensor { name: name.into(), problem });
            }
        };
        Ok((place, raw, dtype))
    }
}

impl WeightSource for DenseSource {
    fn describe(&self) -> String {
        self.checkpoint.describe()
    }

    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        let (place, raw, dtype) = self.find(name)?;
        let cut = |rows: &Range<usize>| vec![rows.len(), raw.shape.last().copied().unwrap_or(1)];
        Ok(TensorInfo::dense(dtype, place.rows.as_ref().map_or_else(|| raw.shape.clone(), cut)))
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        let (place, raw, dtype) = self.find(name)?;
        let whole = CanonicalTensor::dense(dtype, raw.shape, raw.bytes);
        place.rows.clone().map_or(Ok(whole.clone()), |rows| whole.slice_rows(name, rows))
    }
}
