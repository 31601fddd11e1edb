//! Weights of a real model's size, fast: numbers from a ring whose length is a prime, so that no
//! two rows of a matrix begin alike.

use std::collections::BTreeMap;

use nvllm_core::{DType, WeightDecl};

use crate::draw::Draw;
use crate::source::MemorySource;

/// Numbers of the ring: a prime.
const LEN: usize = 1_048_573;

/// Drawn numbers of mean 0 and variance 1.
pub(crate) struct Ring {
    numbers: Vec<f32>,
}

impl Ring {
    /// The name of tables, before their number.
    pub(crate) const TABLE: &str = "rows";

    /// Whether a weight is a table of rows, and not the model's.
    pub(crate) fn is_table(decl: &WeightDecl) -> bool {
        decl.name.rsplit_once('.').is_some_and(|(name, _)| name == Self::TABLE)
    }

    pub(crate) fn new(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        Self { numbers: (0..LEN).map(|_| draw.unit()).collect() }
    }

    /// Tensors for every part of `decls` in `dtype`: rows of tables of unit scale, vectors around
    /// 1, matrices of deviation `1 / sqrt(k)`. Copies, whose names differ in their last number,
    /// have the same bytes.
    pub(crate) fn source(&self, decls: &[WeightDecl], dtype: DType) -> MemorySource {
        let mut source = MemorySource::new();
        let mut first = BTreeMap::<String, String>::new();
        let mut at = 0;
        for decl in decls {
            let vector = decl.shape.len() < 2;
            let table = Self::is_table(decl);
            let (mean, scale) = match (vector, table) {
                (true, _) => (1.0, 0.3),
                (false, true) => (0.0, 1.0),
                (false, false) => (0.0, 1.0 / (decl.num_cols() as f32).sqrt()),
            };
            for part in &decl.parts {
                let stem = part.source.rsplit_once('.').map_or("", |(stem, _)| stem);
                if let Some(other) = first.get(stem).filter(|_| !table) {
                    source.put_copy(&part.source, other);
                    continue;
                }
                let cols = if vector { 1 } else { decl.num_cols() };
                let shape = if vector { vec![part.num_rows] } else { vec![part.num_rows, cols] };
                let len = part.num_rows * cols;
                let values = self.numbers.iter().cycle().skip(at).take(len).map(|x| mean + scale * x);
                source.insert(&part.source, dtype, &shape, values);
                at = (at + len + 1) % LEN;
                if !table {
                    first.insert(stem.to_owned(), part.source.clone());
                }
            }
        }
        source
    }
}

#[cfg(test)]
mod tests {
    use nvllm_core::WeightSource;
    use nvllm_core::weight::{AxisRole, WeightPart};

    use super::*;

    #[test]
    fn copies_share_bytes_and_rows_do_not() {
        let decl = |name: &str| WeightDecl {
            name: name.into(),
            shape: vec![3, 8],
            parts: vec![WeightPart { source: name.into(), num_rows: 3, role: AxisRole::Replicated }],
            in_role: AxisRole::Replicated,
        };
        let decls = ["w.0", "w.1", "rows.0", "rows.1"].map(decl);
        let source = Ring::new(1).source(&decls, DType::F32);
        let [a, b, c, d] = ["w.0", "w.1", "rows.0", "rows.1"].map(|name| source.tensor(name).unwrap().codes);
        assert_eq!(a.as_ptr(), b.as_ptr());
        assert!(c != d && a != c);
        assert!(a[..32] != a[32..64]);
    }
}
