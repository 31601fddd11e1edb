//! A source that quantises on the way.

use std::collections::BTreeMap;
use std::ops::Range;

use nvllm_core::{CanonicalTensor, CoreError, Result, TensorInfo, WeightSource};

use super::{Format, quantize};

/// A source of dense weights, some of which come quantised: each when it is asked for, so that
/// there is one copy of it in memory.
pub struct Quantized {
    source: Box<dyn WeightSource + Send + Sync>,
    formats: BTreeMap<String, Format>,
}

impl Quantized {
    /// The tensors of `source`, those that `formats` names in that format.
    ///
    /// Errors if one of them is missing or coded already.
    pub fn new(
        source: Box<dyn WeightSource + Send + Sync>,
        formats: BTreeMap<String, Format>,
    ) -> Result<Self> {
        for name in formats.keys() {
            let info = source.info(name)?;
            if info.format.plain().is_none() {
                let problem =
                    format!("is quantised already, in {}; take the original checkpoint", info.format);
                return Err(CoreError::BadTensor { name: name.clone(), problem });
            }
        }
        Ok(Self { source, formats })
    }

    fn quantized(&self, name: &str, tensor: CanonicalTensor) -> Result<CanonicalTensor> {
        match self.formats.get(name) {
            Some(format) => quantize(name, &tensor, *format),
            None => Ok(tensor),
        }
    }
}

impl WeightSource for Quantized {
    fn describe(&self) -> String {
        self.source.describe()
    }

    fn names(&self) -> Vec<String> {
        self.source.names()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        let info = self.source.info(name)?;
        let format = self.formats.get(name).zip(info.format.plain());
        Ok(match format {
            Some((format, dtype)) => TensorInfo { format: format.canonical(dtype), ..info },
            None => info,
        })
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        self.quantized(name, self.source.tensor(name)?)
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<CanonicalTensor> {
        self.quantized(name, self.source.rows(name, rows)?)
    }
}
