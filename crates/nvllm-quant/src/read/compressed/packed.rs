//! `pack-quantized`: 4- and 8-bit integers in words of 32 bits.
//!
//! For a weight `[n, k]` in groups of `g` columns; words are i32 with the first item in the lowest
//! bits, and an item is the signed code plus half of its range:
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `weight_packed` | `[n, k * bits / 32]`, rounded up | words along a row |
//! | `weight_scale` | `[n, k / g]` | any float |
//! | `weight_zero_point` | `[n * bits / 32, k / g]`, rounded up; or i8, `[n, k / g]` | words along a COLUMN |
//! | `weight_shape` | `[2]` | i64 or i32: `n` and `k` |
//! | `weight_g_idx` | `[k]` | each column's group, under act-order |

use std::sync::Arc;

use bytes::Bytes;
use nvllm_core::weight::{ActQuant, Code, Offset, TensorInfo, WHOLE, WeightFormat, pack};
use nvllm_core::{CanonicalTensor, Result};

use super::super::layout::{Layout, empty};
use super::super::module::{Module, Part};
use super::super::repack;
use super::super::scaled::{Blocks, ZERO_POINT, refuse_zero_point, static_scale};

/// Tensors of a module that say something of its inputs, its output, or of keys and values.
pub(super) const BESIDE: [&str; 5] =
    [".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point", ".weight_g_idx"];

#[derive(Debug)]
pub(super) struct Packed {
    /// 4 or 8.
    pub(super) bits: usize,
    /// Groups or channels.
    pub(super) blocks: Blocks,
    pub(super) asymmetric: bool,
    pub(super) act_order: bool,
    pub(super) act: Option<ActQuant>,
}

struct Parts {
    shape: [usize; 2],
    packed: Part,
    scales: Part,
    order: Option<Arc<[u32]>>,
}

impl Packed {
    fn group(&self) -> usize {
        self.blocks.extents()[1]
    }

    fn read(&self, module: &Module<'_>) -> Result<Parts> {
        let [n, k] = shape(&module.part(".weight_shape")?)?;
        let words = (k * self.bits).div_ceil(32);
        let packed = module.part(".weight_packed")?.words()?;
        let packed = packed.shaped(&[n, words], &format!("weight_shape is [{n}, {k}]"))?;
        if self.group() != WHOLE && !k.is_multiple_of(self.group()) {
            let problem = format!("has {k} columns, which groups of {} do not divide", self.group());
            return Err(module.bad(problem));
        }
        let scales = self.blocks.check(module.part(".weight_scale")?.floats()?, [n, k])?;
        let g_idx = module.find(".weight_g_idx")?;
        if self.act_order && g_idx.is_none() {
            return Err(
                module.bad("has its columns in another order (`actorder`) and no `weight_g_idx` to tell it")
            );
        }
        let g_idx = g_idx.map(|part| part.words()?.shaped(&[k], "a group for each column")).transpose()?;
        // The package fills with -1 what it has not been told.
        let g_idx = g_idx.filter(|part| !part.to_words().contains(&u32::MAX));
        let order = g_idx.map(|part| repack::column_order(&part, k, self.group())).transpose()?.flatten();
        Ok(Parts { shape: [n, k], packed, scales, order })
    }

    fn format(&self, parts: &Parts) -> WeightFormat {
        let (code, symmetric) =
            if self.bits == 8 { (Code::I8, Offset::None) } else { (Code::U4, Offset::Midpoint) };
        let offset = if self.asymmetric { Offset::Int } else { symmetric };
        let format = WeightFormat::scaled(code, parts.scales.scale_type(), [1, self.group()], offset);
        WeightFormat { act: self.act, permuted: parts.order.is_some(), ..format }
    }

    fn codes(&self, parts: &Parts) -> Bytes {
        let [_, k] = parts.shape;
        let (held, needed) = ((k * self.bits).div_ceil(32) * 4, (k * self.bits).div_ceil(8));
        let mut codes = parts.packed.raw.bytes.to_vec();
        if self.bits == 8 {
            repack::to_signed(&mut codes);
        }
        match &parts.order {
            Some(order) => repack::reordered(&codes, self.bits, held, order),
            None if held == needed => codes.into(),
            None => {
                codes.chunks_exact(held).flat_map(|row| &row[..needed]).copied().collect::<Vec<_>>().into()
            }
        }
    }

    /// A row of zero points, one a group, for each row, as items of the codes' type.
    fn zero_points(&self, module: &Module<'_>, [n, k]: [usize; 2]) -> Result<Bytes> {
        if !self.asymmetric {
            refuse_zero_point(module, ZERO_POINT)?;
            return Ok(Bytes::new());
        }
        let (groups, part) = (repack::num_groups(k, self.group()), module.part(ZERO_POINT)?);
        let middle = 1_i32 << (self.bits - 1);
        // Of I8 the item is the value, of U4 the value plus the middle.
        let shift = if self.bits == 8 { 0 } else { middle };
        if part.raw.dtype == "I8" {
            let part = self.blocks.check(part.typed(&[("I8", 1)])?, [n, k])?;
            let values = part.raw.bytes.iter().map(|&byte| i32::from(byte as i8));
            if let Some(value) = values.clone().find(|value| !(-middle..middle).contains(value)) {
                return Err(part.bad(format!(
                    "has {value}; {} bits hold {} to {}",
                    self.bits,
                    -middle,
                    middle - 1
                )));
            }
            return Ok(pack::pack(values.map(|value| (value + shift) as u32), self.bits, groups));
        }
        let per_word = 32 / self.bits;
        let part = part.words()?.shaped(&[n.div_ceil(per_word), groups], "words of the rows' zero points")?;
        let words = part.to_words();
        let item = |row: usize, group: usize| {
            let item = words[row / per_word * groups + group] >> (row % per_word * self.bits);
            // 8 bits are stored with 128 more.
            if self.bits == 8 { item ^ 0x80 } else { item }
        };
        let items = (0..n).flat_map(|row| (0..groups).map(move |group| (row, group)));
        Ok(pack::pack(items.map(|(row, group)| item(row, group)), self.bits, groups))
    }
}

/// The two numbers of `weight_shape`.
fn shape(part: &Part) -> Result<[usize; 2]> {
    let numbers: Vec<_> = match part.raw.dtype.as_str() {
        "I64" => part.raw.bytes.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect(),
        "I32" => part.to_words().into_iter().map(|word| i64::from(word.cast_signed())).collect(),
        _ => Vec::new(),
    };
    match numbers[..] {
        [n, k] if (1..=1 << 28).contains(&n) && (1..=1 << 28).contains(&k) => Ok([n as usize, k as usize]),
        _ => Err(part.bad("does not hold two extents in i64 or i32")),
    }
}

impl Layout for Packed {
    fn name(&self) -> &'static str {
        "compressed-tensors"
    }

    fn marks(&self) -> &'static [&'static str] {
        &[".weight_packed"]
    }

    fn parts(&self) -> &'static [&'static str] {
        const PARTS: [&str; 9] = [
            ".weight_packed",
            ".weight_scale",
            ".weight_shape",
            ZERO_POINT,
            BESIDE[0],
            BESIDE[1],
            BESIDE[2],
            BESIDE[3],
            BESIDE[4],
        ];
        &PARTS
    }

    fn info(&self, module: &Module<'_>) -> Result<TensorInfo> {
        let parts = self.read(module)?;
        self.zero_points(module, parts.shape)?;
        refuse_zero_point(module, ".input_zero_point")?;
        static_scale(self.act, module)?;
        Ok(TensorInfo { shape: parts.shape.into(), format: self.format(&parts) })
    }

    fn tensor(&self, module: &Module<'_>) -> Result<CanonicalTensor> {
        let parts = self.read(module)?;
        let format = self.format(&parts);
        let Parts { scales, .. } = &parts;
        Ok(CanonicalTensor {
            codes: self.codes(&parts),
            scales: scales.raw.bytes.clone(),
            offsets: self.zero_points(module, parts.shape)?,
            k_perm: parts.order.clone(),
            act_scale: static_scale(self.act, module)?,
            ..empty(format, parts.shape)
        })
    }
}
