//! Coded weights as dense ones, where a backend has no kernel for their codes.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use half::f16;

use super::expand::Expander;
use super::{CanonicalTensor, TensorInfo, WeightInfo, WeightSource, in_parallel};
use crate::{Backend, DType, Limits, ModelSpec, OpQuery, Result};

/// A source whose coded tensors come dense, in one dtype: each element's value in f32, rounded.
/// Dense tensors stay as they are, and so do coded ones that a backend runs. What the format of an
/// expanded tensor says of a linear layer's input is dropped.
pub struct Dequantized<S> {
    source: S,
    dtype: DType,
    /// Coded tensors that stay so.
    native: BTreeSet<String>,
}

impl<S: WeightSource> Dequantized<S> {
    /// The tensors of `source`, all coded ones as `dtype`: f32, f16 or bf16.
    pub fn new(source: S, dtype: DType) -> Self {
        Self { source, dtype, native: BTreeSet::new() }
    }

    /// The tensors of `source` as `backend` runs the model `spec`: a coded weight stays coded if
    /// `backend` has a kernel for every op that reads it, and comes in the dtype of the activations
    /// otherwise.
    ///
    /// Errors if the tensors do not fit what the model declares.
    pub fn for_backend(source: S, backend: &dyn Backend, spec: &ModelSpec, limits: &Limits) -> Result<Self> {
        let weights =
            spec.weights.iter().map(|decl| WeightInfo::of(decl, &source)).collect::<Result<Vec<_>>>()?;
        let mut runs: Vec<_> = weights.iter().map(|info| info.plain().is_err()).collect();
        for op in spec.programs.iter().flat_map(|program| &program.nodes).map(|node| &node.op) {
            let reads = op.weights();
            if reads.iter().any(|id| runs[id.index()])
                && backend.supports(&OpQuery { op, weights: &weights, limits }).is_err()
            {
                reads.iter().for_each(|id| runs[id.index()] = false);
            }
        }
        let native = spec.weights.iter().zip(runs).filter(|(_, runs)| *runs);
        let parts = native.flat_map(|(decl, _)| decl.parts.iter().map(|part| part.source.clone()));
        Ok(Self { native: parts.collect(), ..Self::new(source, limits.activations.dtype()) })
    }

    fn expand(&self, name: &str, tensor: CanonicalTensor) -> Result<CanonicalTensor> {
        if tensor.format.plain().is_some() || self.native.contains(name) {
            return Ok(tensor);
        }
        tensor.check(name)?;
        let cols = tensor.num_cols();
        let row_bytes = cols * self.dtype.size();
        let mut bytes = vec![0; tensor.num_rows() * row_bytes];
        let dtype = self.dtype;
        let rows_at_once = (AT_ONCE / cols.max(1)).max(1);
        let parts = bytes.chunks_mut((rows_at_once * row_bytes).max(1)).enumerate();
        in_parallel(parts.collect(), |(part, out)| {
            let (mut expander, mut values) = (Expander::new(&tensor), vec![0.0; cols]);
            for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                expander.row(part * rows_at_once + row, &mut values);
                round(dtype, &values, out);
            }
        });
        Ok(CanonicalTensor::dense(self.dtype, tensor.shape, Bytes::from(bytes)))
    }
}

/// Elements that a thread expands at once: about a millisecond's work. For less, a thread that
/// waits for a busy processor costs more than it saves.
const AT_ONCE: usize = 1 << 20;

/// As [`DType::write`] does, a row at a time.
fn round(dtype: DType, values: &[f32], out: &mut [u8]) {
    match dtype {
        DType::Bf16 => store(values, out, bf16_bytes),
        DType::F16 => store(values, out, |x| f16::from_f32(x).to_le_bytes()),
        DType::F32 | DType::I32 | DType::U8 => store(values, out, f32::to_le_bytes),
    }
}

/// What `bf16::from_f32` gives, without branches, as vector instructions need it.
fn bf16_bytes(x: f32) -> [u8; 2] {
    let bits = x.to_bits();
    // To nearest, ties to even; a NaN keeps its sign and is quiet.
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let bits = if x.is_nan() { bits | 0x0040_0000 } else { rounded };
    // As a signed number, which two instructions narrow where an unsigned one takes six.
    ((bits.cast_signed() >> 16) as u16).to_le_bytes()
}

fn store<const N: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, &x)| *out = bytes(x));
}

impl<S: WeightSource> WeightSource for Dequantized<S> {
    fn describe(&self) -> String {
        self.source.describe()
    }

    fn names(&self) -> Vec<String> {
        self.source.names()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        let info = self.source.info(name)?;
        let stays = info.format.plain().is_some() || self.native.contains(name);
        Ok(if stays { info } else { TensorInfo::dense(self.dtype, info.shape) })
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        self.expand(name, self.source.tensor(name)?)
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<CanonicalTensor> {
        self.expand(name, self.source.rows(name, rows)?)
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::super::{Arranged, Place, WeightDecl, public};
    use super::*;
    use crate::weight::{AxisRole, Weight, WeightPart};

    /// A coded tensor `q` of four rows and a dense one `d`.
    struct Two;

    impl WeightSource for Two {
        fn describe(&self) -> String {
            "two".into()
        }

        fn names(&self) -> Vec<String> {
            vec!["d".into(), "q".into()]
        }

        fn info(&self, name: &str) -> Result<TensorInfo> {
            self.tensor(name).map(|tensor| tensor.info())
        }

        fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
            let dense = |bytes| CanonicalTensor::dense(DType::F16, [4, 2], bytes);
            if name == "d" {
                return Ok(dense(Bytes::from_static(&[0; 16])));
            }
            let format = public::PUBLIC.iter().find(|(name, _)| *name == "q8_0").unwrap().1;
            let scales: Vec<u8> = [1.0, 0.5, -3.0, 65504.0].map(|x| f16::from_f32(x).to_le_bytes()).concat();
            let codes = Bytes::from_static(&[1, 255, 2, 127, 3, 128, 0, 4]);
            Ok(CanonicalTensor { format, scales: scales.into(), ..dense(codes) })
        }
    }

    const VALUES: [f32; 8] = [1.0, -1.0, 1.0, 63.5, -9.0, 384.0, 0.0, 262_016.0];

    #[test]
    fn coded_tensors_come_dense_and_rounded_and_dense_ones_as_they_are() {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let source = Dequantized::new(Two, dtype);
            assert_eq!(source.info("q").unwrap(), TensorInfo::dense(dtype, [4, 2]));
            let tensor = source.tensor("q").unwrap();
            assert_eq!(tensor.info(), source.info("q").unwrap());
            let mut expected = Vec::new();
            VALUES.iter().for_each(|&x| dtype.write(x, &mut expected));
            assert_eq!(tensor.codes, expected);
            assert_eq!(source.rows("q", 1..3).unwrap().codes, expected[2 * dtype.size()..6 * dtype.size()]);
            assert_eq!(source.info("d").unwrap(), TensorInfo::dense(DType::F16, [4, 2]));
            assert_eq!(source.tensor("d").unwrap().codes, vec![0; 16]);
        }
    }

    /// So large that threads share it: as many rows each, and fewer for the last.
    #[test]
    fn rows_that_threads_share_are_those_of_one() {
        let format = public::PUBLIC.iter().find(|(name, _)| *name == "q8_0").unwrap().1;
        let (rows, cols) = (2 * AT_ONCE / 1024 + 3, 1024);
        let codes = (0..rows * cols).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>();
        let scales = (0..rows * cols / 32).flat_map(|i| f16::from_f32((i % 97) as f32).to_le_bytes());
        let scales: Bytes = scales.collect::<Vec<_>>().into();
        let tensor = CanonicalTensor {
            format,
            scales,
            ..CanonicalTensor::dense(DType::F32, [rows, cols], Bytes::from(codes))
        };
        let expanded = Dequantized::new(Two, DType::F32).expand("t", tensor.clone()).unwrap();
        let (mut row, mut expected) = (vec![0.0; cols], Vec::new());
        for at in 0..rows {
            tensor.dequant_row(at, &mut row);
            row.iter().for_each(|&x| DType::F32.write(x, &mut expected));
        }
        assert!(expanded.codes == expected);
    }

    proptest! {
        #[test]
        fn rounding_without_branches_is_rounding(high: u16, low in prop_oneof![0..4_u32, 0x7ffe..0x8003_u32, any::<u16>().prop_map(u32::from)]) {
            let x = f32::from_bits(u32::from(high) << 16 | low);
            prop_assert_eq!(bf16_bytes(x), bf16::from_f32(x).to_le_bytes());
        }
    }

    #[test]
    fn parts_of_it_load_under_other_names() {
        let place = |rows| Place { name: "q".into(), rows };
        let places =
            [("a".into(), place(Some(0..1))), ("b".into(), place(Some(1..4))), ("c".into(), place(None))];
        let source = Arranged::with_places(Dequantized::new(Two, DType::F32), places.into());
        assert_eq!(source.names(), ["a", "b", "c"]);
        let part =
            |source: &str, num_rows| WeightPart { source: source.into(), num_rows, role: AxisRole::Ffn };
        let load = |parts: Vec<WeightPart>| {
            let shape = vec![parts.iter().map(|part| part.num_rows).sum(), 2];
            let decl = WeightDecl { name: "w".into(), shape, parts, in_role: AxisRole::Replicated };
            Weight::load(&decl, &source).unwrap().to_f32().unwrap()
        };
        assert_eq!(load(vec![part("a", 1), part("b", 3)]), VALUES);
        assert_eq!(load(vec![part("c", 4)]), VALUES);
        assert_eq!(source.rows("b", 1..3).unwrap().codes, source.rows("c", 2..4).unwrap().codes);
        assert!(source.rows("a", 0..2).is_err() && source.rows("c", 3..5).is_err());
    }
}
