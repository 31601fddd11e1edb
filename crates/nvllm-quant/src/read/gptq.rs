//! GPTQ's layout (Frantar et al. 2022, arXiv 2210.17323; as `AutoGPTQ` and `GPTQModel` write it).
//!
//! For a weight `[n, k]` in groups of `g` columns; words are i32 with the first item in the lowest
//! bits:
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `qweight` | `[k * bits / 32, n]` | words along `k`: unsigned codes |
//! | `qzeros` | `[k / g, n * bits / 32]` | words along `n`: zero points, in v1 less 1 |
//! | `scales` | `[k / g, n]` | f16 or bf16 |
//! | `g_idx` | `[k]` | each column's group; act-order alone needs it |
//!
//! v1 subtracted 1 from each item of a word of zero points, all at once, so that a zero point of 0
//! borrowed from its neighbour: the same word is added here before it is taken apart.

use bytes::Bytes;
use nvllm_core::weight::{Code, Offset, TensorInfo, WHOLE, WeightFormat, pack};
use nvllm_core::{CanonicalTensor, Result};

use super::fields::Fields;
use super::layout::Layout;
use super::module::{Module, Part};
use super::repack;

#[derive(Debug)]
pub(super) struct Gptq {
    bits: usize,
    /// Columns of a group; [`WHOLE`] for one a row.
    group: usize,
    /// Whether zero points are stored less 1.
    v1: bool,
    act_order: bool,
}

impl Gptq {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self> {
        let bits = match fields.integer("bits")? {
            Some(4) => 4,
            Some(8) => 8,
            _ => return Err(fields.refuse("bits", "4 and 8 are supported")),
        };
        let field = if fields.get("checkpoint_format").is_some() { "checkpoint_format" } else { "format" };
        let v1 = match fields.text(field)? {
            None | Some("gptq") => true,
            Some("gptq_v2") => false,
            _ => return Err(fields.refuse(field, "gptq and gptq_v2 are supported")),
        };
        if fields.flag("is_marlin_format", false)? {
            return Err(fields.refuse("is_marlin_format", "gptq and gptq_v2 are supported"));
        }
        if !matches!(fields.text("pack_dtype")?, None | Some("int32")) {
            return Err(fields.refuse("pack_dtype", "int32 is supported"));
        }
        Ok(Self { bits, group: group_size(fields)?, v1, act_order: fields.flag("desc_act", false)? })
    }

    fn read(&self, module: &Module<'_>) -> Result<Parts> {
        let (qweight, per_word) = (module.part(".qweight")?.words()?, 32 / self.bits);
        let [words, n] = qweight.matrix()?;
        let k = words.saturating_mul(per_word);
        let groups = repack::num_groups(k, self.group);
        if k == 0 || !n.is_multiple_of(per_word) {
            return Err(module.bad(format!("is {n} x {k}: rows in multiples of {per_word} fill the words")));
        }
        let why = format!("{k} columns in groups of group_size make {groups}");
        let scales = module.part(".scales")?.floats()?.shaped(&[groups, n], &why)?;
        let qzeros = module.part(".qzeros")?.words()?.shaped(&[groups, n / per_word], &why)?;
        let g_idx = module.find(".g_idx")?;
        if self.act_order && g_idx.is_none() {
            return Err(module.bad("has its columns in another order (`desc_act`) and no `g_idx` to tell it"));
        }
        let g_idx = g_idx.map(|part| part.words()?.shaped(&[k], "a group for each column")).transpose()?;
        let order = g_idx.map(|part| repack::column_order(&part, k, self.group)).transpose()?.flatten();
        Ok(Parts { shape: [n, k], groups, qweight, qzeros, scales, order })
    }

    fn format(&self, parts: &Parts) -> WeightFormat {
        let code = if self.bits == 8 { Code::I8 } else { Code::U4 };
        let format = WeightFormat::scaled(code, parts.scales.scale_type(), [1, self.group], Offset::Int);
        if parts.order.is_some() { format.permuted() } else { format }
    }

    fn codes(&self, parts: &Parts) -> Bytes {
        let words = parts.shape[1] * self.bits / 32;
        // A row's words in order hold its codes in order.
        let mut codes = repack::transposed::<4>(&parts.qweight.raw.bytes, words);
        if self.bits == 8 {
            repack::to_signed(&mut codes);
        }
        match &parts.order {
            Some(order) => repack::reordered(&codes, self.bits, words * 4, order),
            None => codes.into(),
        }
    }

    /// A row of zero points, one a group, for each row.
    fn zero_points(&self, parts: &Parts) -> Bytes {
        let one_each = if self.bits == 8 { 0x0101_0101 } else { 0x1111_1111 };
        let mut words = parts.qzeros.to_words();
        if self.v1 {
            words.iter_mut().for_each(|word| *word = word.wrapping_add(one_each));
        }
        if self.bits == 8 {
            words.iter_mut().for_each(|word| *word ^= 0x8080_8080);
        }
        let ([n, _], groups) = (parts.shape, parts.groups);
        let (per_word, row) = (32 / self.bits, n * self.bits / 32);
        let item = |row_of_words: usize, at: usize| {
            words[row_of_words * row + at / per_word] >> (at % per_word * self.bits)
        };
        pack::pack(
            (0..n).flat_map(|at| (0..groups).map(move |group| (group, at))).map(|(g, at)| item(g, at)),
            self.bits,
            groups,
        )
    }
}

/// A module's tensors, as many and as large as they have to be.
struct Parts {
    shape: [usize; 2],
    groups: usize,
    qweight: Part,
    qzeros: Part,
    scales: Part,
    order: Option<std::sync::Arc<[u32]>>,
}

impl Layout for Gptq {
    fn name(&self) -> &'static str {
        "gptq"
    }

    fn marks(&self) -> &'static [&'static str] {
        &[".qweight"]
    }

    fn parts(&self) -> &'static [&'static str] {
        &[".qweight", ".qzeros", ".scales", ".g_idx"]
    }

    fn info(&self, module: &Module<'_>) -> Result<TensorInfo> {
        let parts = self.read(module)?;
        Ok(TensorInfo { shape: parts.shape.into(), format: self.format(&parts) })
    }

    fn tensor(&self, module: &Module<'_>) -> Result<CanonicalTensor> {
        let parts = self.read(module)?;
        Ok(CanonicalTensor {
            codes: self.codes(&parts),
            scales: repack::transposed_scales(&parts.scales, parts.groups),
            offsets: self.zero_points(&parts),
            k_perm: parts.order.clone(),
            ..super::layout::empty(self.format(&parts), parts.shape)
        })
    }
}

/// The columns of a group; [`WHOLE`] for -1.
pub(super) fn group_size(fields: &Fields<'_>) -> Result<usize> {
    match fields.integer("group_size")? {
        Some(-1) => Ok(WHOLE),
        Some(group) if group > 0 && group % 8 == 0 => Ok(group as usize),
        _ => Err(fields.refuse("group_size", "multiples of 8, and -1 for one group a row, are supported")),
    }
}
