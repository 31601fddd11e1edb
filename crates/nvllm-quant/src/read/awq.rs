//! AWQ's GEMM layout (Lin et al. 2023, arXiv 2306.00978; as `AutoAWQ` writes it), 4 bits.
//!
//! For a weight `[n, k]` in groups of `g` columns:
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `qweight` | `[k, n / 8]` | i32: unsigned codes of eight rows |
//! | `qzeros` | `[k / g, n / 8]` | i32: zero points of eight rows |
//! | `scales` | `[k / g, n]` | f16 or bf16 |
//!
//! Nibbles 0 to 7 of a word, from the lowest, are rows 0, 2, 4, 6, 1, 3, 5, 7 of its eight.

use nvllm_core::weight::{Code, Offset, TensorInfo, WHOLE, WeightFormat};
use nvllm_core::{CanonicalTensor, Result};

use super::fields::Fields;
use super::gptq::group_size;
use super::layout::Layout;
use super::module::{Module, Part};
use super::repack;

/// The row of each nibble.
const ROWS: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

#[derive(Debug)]
pub(super) struct Awq {
    group: usize,
}

impl Awq {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self> {
        let bits = if fields.get("w_bit").is_some() { "w_bit" } else { "bits" };
        if fields.integer(bits)? != Some(4) {
            return Err(fields.refuse(bits, "4 is supported"));
        }
        for field in ["version", "checkpoint_format", "format"] {
            if !fields.text(field)?.is_none_or(|name| name.eq_ignore_ascii_case("gemm")) {
                return Err(fields.refuse(field, "gemm is supported"));
            }
        }
        if !fields.flag("zero_point", true)? {
            return Err(fields.refuse("zero_point", "true is supported"));
        }
        Ok(Self { group: group_size(fields)? })
    }

    fn read(&self, module: &Module<'_>) -> Result<Parts> {
        let qweight = module.part(".qweight")?.words()?;
        let [k, words] = qweight.matrix()?;
        let (n, groups) = (words.saturating_mul(8), repack::num_groups(k, self.group));
        if k == 0 || (self.group != WHOLE && !k.is_multiple_of(self.group)) {
            let problem = format!("has {k} columns, which groups of {} do not divide", self.group);
            return Err(module.bad(problem));
        }
        let why = format!("{k} columns in groups of group_size make {groups}");
        let scales = module.part(".scales")?.floats()?.shaped(&[groups, n], &why)?;
        let qzeros = module.part(".qzeros")?.words()?.shaped(&[groups, words], &why)?;
        let format = WeightFormat::scaled(Code::U4, scales.scale_type(), [1, self.group], Offset::Int);
        Ok(Parts { shape: [n, k], groups, format, qweight, qzeros, scales })
    }
}

struct Parts {
    shape: [usize; 2],
    groups: usize,
    format: WeightFormat,
    qweight: Part,
    qzeros: Part,
    scales: Part,
}

/// `[cols, n / 8]` words as `n` rows of `cols` 4-bit items.
fn rows_of(part: &Part, n: usize, cols: usize) -> Vec<u8> {
    let row_bytes = cols.div_ceil(2);
    let (words, per_col) = (part.to_words(), n / 8);
    let mut out = vec![0; n * row_bytes];
    for at in 0..per_col {
        let eight = &mut out[at * 8 * row_bytes..][..8 * row_bytes];
        for (col, word) in words.iter().skip(at).step_by(per_col).enumerate() {
            for (nibble, row) in ROWS.into_iter().enumerate() {
                let item = (word >> (4 * nibble) & 15) as u8;
                eight[row * row_bytes + col / 2] |= item << (col % 2 * 4);
            }
        }
    }
    out
}

impl Layout for Awq {
    fn name(&self) -> &'static str {
        "awq"
    }

    fn marks(&self) -> &'static [&'static str] {
        &[".qweight"]
    }

    fn parts(&self) -> &'static [&'static str] {
        &[".qweight", ".qzeros", ".scales"]
    }

    fn info(&self, module: &Module<'_>) -> Result<TensorInfo> {
        let parts = self.read(module)?;
        Ok(TensorInfo { shape: parts.shape.into(), format: parts.format })
    }

    fn tensor(&self, module: &Module<'_>) -> Result<CanonicalTensor> {
        let Parts { shape: [n, k], groups, format, qweight, qzeros, scales } = self.read(module)?;
        Ok(CanonicalTensor {
            codes: rows_of(&qweight, n, k).into(),
            scales: repack::transposed_scales(&scales, groups),
            offsets: rows_of(&qzeros, n, groups).into(),
            ..super::layout::empty(format, [n, k])
        })
    }
}
