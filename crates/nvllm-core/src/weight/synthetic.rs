//! Random weights of a declared shape, reproducible anywhere: for benchmarks and tests without a
//! checkpoint.

use bytes::Bytes;

use super::{CanonicalTensor, TensorInfo, WeightDecl, WeightSource};
use crate::sampling::philox4x32;
use crate::{CoreError, DType, Result};

/// Weights drawn from a seed: normal with standard deviation `1/sqrt(k)` for matrices (so that
/// values keep their size through layers), near 1 for vectors. A tensor's values depend on the
/// seed, its name and the index only.
pub struct SyntheticSource {
    seed: u64,
    dtype: DType,
    parts: Vec<(String, Vec<usize>)>,
}

impl SyntheticSource {
    /// Tensors for every part of `decls`, stored as `dtype`.
    pub fn new(decls: &[WeightDecl], dtype: DType, seed: u64) -> Self {
        let shape = |decl: &WeightDecl, rows| {
            if decl.shape.len() < 2 { vec![rows] } else { vec![rows, decl.num_cols()] }
        };
        let parts = decls
            .iter()
            .flat_map(|decl| {
                decl.parts.iter().map(move |part| (part.source.clone(), shape(decl, part.num_rows)))
            })
            .collect();
        Self { seed, dtype, parts }
    }
}

impl WeightSource for SyntheticSource {
    fn describe(&self) -> String {
        format!("synthetic weights, seed {}", self.seed)
    }

    fn names(&self) -> Vec<String> {
        self.parts.iter().map(|(name, _)| name.clone()).collect()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        let missing = || CoreError::MissingTensor { name: name.into(), place: self.describe() };
        let (_, shape) = self.parts.iter().find(|(part, _)| part == name).ok_or_else(missing)?;
        Ok(TensorInfo::dense(self.dtype, shape.clone()))
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        let shape = self.info(name)?.shape;
        let (mean, std) = if shape.len() < 2 { (1.0, 0.1) } else { (0.0, 1.0 / (shape[1] as f32).sqrt()) };
        // FNV-1a of the name separates the tensors' streams.
        let key = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let len = shape.iter().product::<usize>();
        let mut codes = Vec::with_capacity(len * self.dtype.size() + 16);
        for i in 0..len.div_ceil(4) {
            let draws = philox4x32(self.seed ^ key, [i as u32, (i >> 32) as u32, 0, 0]);
            // A sum of two uniforms has a triangular density: close enough to normal, and needs no
            // logarithm.
            for pair in draws {
                let (a, b) = (pair & 0xffff, pair >> 16);
                let unit = (a as f32 + b as f32) / 65535.0 - 1.0;
                self.dtype.write(mean + std * unit * 6.0_f32.sqrt(), &mut codes);
            }
        }
        codes.truncate(len * self.dtype.size());
        Ok(CanonicalTensor::dense(self.dtype, shape, Bytes::from(codes)))
    }
}
