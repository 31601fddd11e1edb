//! How keys and values lie in the KV cache.
//!
//! A *row* is the key or the value of one token for one KV head. Every format stores a row by
//! itself, so a token's keys and values depend on that token alone: neither on the batch nor on
//! what else is in a block.
//!
//! | format | an element | its value | bytes of a row |
//! |---|---|---|---|
//! | `f32` | IEEE 754 binary32 | itself | `4 d` |
//! | `bf16` | bfloat16 | itself | `2 d` |
//! | `fp8` | E4M3, the nearest to `x`, of two the even one; beyond +-448 (infinity too) the largest; NaN stays NaN | itself | `d` |
//! | `int8` | `x / scale`, rounded to the nearest integer, of two the even one, within +-127 | `element * scale` | `d + 4` |
//!
//! The scale of `int8` is an f32 for each row: `max abs(x) / 127`, where NaN counts as larger than
//! all numbers. If it is 0 or not finite, all elements are 0; so a row that holds NaN or infinity
//! has no value that is a number. All operations are in f32, each rounded once.
//!
//! `fp8` is E4M3 of the Open Compute Project (OFP8, 2023; Micikevicius et al. 2022, "FP8 Formats
//! for Deep Learning", arXiv 2209.05433) with a scale of 1, as vLLM's `--kv-cache-dtype fp8` has it
//! unless a checkpoint brings scales. `int8` is symmetric quantisation (Jacob et al. 2018, arXiv
//! 1712.05877) of one row at a time.
//!
//! One layer's part of a block is the elements `[k|v, head, offset, column]`, then the scales
//! `[k|v, head, offset]`, all little-endian.

use crate::DType;
use crate::weight::table::{e4m3_from_f32, e4m3_to_f32};

/// The format of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvFormat {
    /// As they are.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// Rounded to FP8 E4M3.
    Fp8,
    /// 8-bit integers, each row with a scale of its own.
    Int8,
}

/// The largest element of [`KvFormat::Int8`].
const INT8_MAX: f32 = 127.0;

impl KvFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::Fp8, Self::Int8];

    /// Those whose elements are numbers that backends compute with.
    pub const PLAIN: [Self; 2] = [Self::F32, Self::Bf16];

    /// Its name on the command line and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
        }
    }

    /// The type of elements that are numbers as they are; `None` if they are codes.
    pub const fn plain(self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::Bf16 => Some(DType::Bf16),
            Self::Fp8 | Self::Int8 => None,
        }
    }

    /// Bytes of one element.
    pub const fn element_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::Fp8 | Self::Int8 => 1,
        }
    }

    /// Bytes of a row's scale; 0 if it has none.
    pub const fn scale_bytes(self) -> usize {
        match self {
            Self::Int8 => size_of::<f32>(),
            Self::F32 | Self::Bf16 | Self::Fp8 => 0,
        }
    }

    /// Bytes of a row of `head_dim` elements, its scale included.
    pub const fn row_bytes(self, head_dim: usize) -> usize {
        head_dim * self.element_bytes() + self.scale_bytes()
    }

    /// The scale of a row; 1 if rows have none.
    pub fn scale(self, row: &[f32]) -> f32 {
        match self {
            // As integers, magnitudes have the order that the definition asks for.
            Self::Int8 => f32::from_bits(row.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0)) / INT8_MAX,
            Self::F32 | Self::Bf16 | Self::Fp8 => 1.0,
        }
    }

    /// Appends the elements of a row of this scale to `out`.
    pub fn encode(self, row: &[f32], scale: f32, out: &mut Vec<u8>) {
        match self {
            Self::F32 => row.iter().for_each(|&x| DType::F32.write(x, out)),
            Self::Bf16 => row.iter().for_each(|&x| DType::Bf16.write(x, out)),
            Self::Fp8 => out.extend(row.iter().map(|&x| e4m3_from_f32(x))),
            Self::Int8 if scale == 0.0 || !scale.is_finite() => out.resize(out.len() + row.len(), 0),
            Self::Int8 => {
                let code = |&x: &f32| (x / scale).round_ties_even().clamp(-INT8_MAX, INT8_MAX) as i8;
                out.extend(row.iter().map(|x| code(x).cast_unsigned()));
            }
        }
    }

    /// The value of element `index` of a row of this scale.
    ///
    /// # Panics
    /// If `elements` is too short: callers hold validated shapes.
    pub fn decode(self, elements: &[u8], index: usize, scale: f32) -> f32 {
        match self {
            Self::F32 => DType::F32.read(elements, index),
            Self::Bf16 => DType::Bf16.read(elements, index),
            Self::Fp8 => e4m3_to_f32(elements[index]),
            Self::Int8 => f32::from(elements[index].cast_signed()) * scale,
        }
    }

    /// Replaces a row by the values that the cache has for it.
    pub fn round(self, row: &mut [f32]) {
        let (scale, mut elements) = (self.scale(row), Vec::with_capacity(self.row_bytes(row.len())));
        self.encode(row, scale, &mut elements);
        row.iter_mut().enumerate().for_each(|(i, x)| *x = self.decode(&elements, i, scale));
    }
}

impl std::fmt::Display for KvFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// `f32, bf16 and fp8`.
pub(crate) fn listed(formats: &[KvFormat]) -> String {
    let names: Vec<_> = formats.iter().map(|format| format.name()).collect();
    match names.split_last() {
        Some((last, [])) => (*last).into(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => "none".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(format: KvFormat, row: &[f32]) -> Vec<f32> {
        let mut row = row.to_vec();
        format.round(&mut row);
        row
    }

    #[test]
    fn names_are_those_of_the_command_line_and_of_records() {
        for format in KvFormat::ALL {
            assert_eq!(serde_json::to_value(format).unwrap(), format.name());
        }
    }

    #[test]
    fn fp8_rounds_each_element_and_saturates() {
        let row = [1.0, 1.06, 1.07, -1.0625, 1.1875, 447.0, 500.0, f32::NEG_INFINITY, 0.0009, 0.0];
        let values = [1.0, 1.0, 1.125, -1.0, 1.25, 448.0, 448.0, -448.0, 0.0, 0.0];
        assert_eq!(rounded(KvFormat::Fp8, &row), values);
        let values = rounded(KvFormat::Fp8, &[1.0, f32::NAN]);
        assert!(values[0] == 1.0 && values[1].is_nan());
    }

    #[test]
    fn int8_has_the_scale_of_the_largest_element() {
        // Halves go to the even one.
        let row = [-254.0, 0.0, 1.0, 3.0, 5.0, 252.9];
        assert_eq!(KvFormat::Int8.scale(&row), 2.0);
        assert_eq!(rounded(KvFormat::Int8, &row), [-254.0, 0.0, 0.0, 4.0, 4.0, 252.0]);
        assert_eq!(rounded(KvFormat::Int8, &[0.0; 3]), [0.0; 3]);
        // A scale that is rounded much: what is beyond 127 of it is 127.
        let least = f32::from_bits(1);
        let rows = [[100.0 * least, 190.0 * least], [60.0 * least, -least]];
        assert_eq!(rounded(KvFormat::Int8, &rows[0]), [100.0 * least, 127.0 * least]);
        assert_eq!(rounded(KvFormat::Int8, &rows[1]), [0.0, 0.0]);
    }

    #[test]
    fn an_int8_row_that_holds_what_is_no_number_has_no_number() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for row in [[1.0, bad, 2.0], [bad, f32::INFINITY, 0.0]] {
                assert!(rounded(KvFormat::Int8, &row).iter().all(|x| x.is_nan()), "{row:?}");
            }
        }
    }

    /// A row that has been rounded stays: what is written back is what was read.
    #[test]
    fn values_keep_their_elements_under_the_same_scale() {
        let row: Vec<f32> = (0..300).map(|i| (i as f32 - 77.7) * 1.37).collect();
        for format in KvFormat::ALL {
            let (scale, mut elements, mut again) = (format.scale(&row), Vec::new(), Vec::new());
            format.encode(&row, scale, &mut elements);
            assert_eq!(elements.len() + format.scale_bytes(), format.row_bytes(row.len()));
            let values: Vec<f32> = (0..row.len()).map(|i| format.decode(&elements, i, scale)).collect();
            format.encode(&values, scale, &mut again);
            assert_eq!(elements, again, "{format}");
        }
    }
}
