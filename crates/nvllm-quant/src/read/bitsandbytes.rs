//! bitsandbytes' 4-bit weights (Dettmers et al. 2023, arXiv 2305.14314) and `LLM.int8`
//! (Dettmers et al. 2022, arXiv 2208.07339), as transformers saves them.
//!
//! 4 bits, a weight `[n, k]` flattened and cut into runs of 64:
//!
//! | tensor | type | |
//! |---|---|---|
//! | `weight` | u8, or bytes under another name | two indices a byte, the earlier in the high nibble |
//! | `weight.quant_map` | f32, 16 | the values of the indices |
//! | `weight.absmax` | f32, or u8 under a second level | a run's scale |
//! | `weight.nested_quant_map` | f32, 256 | the values of 8-bit scales |
//! | `weight.nested_absmax` | f32 | the scale of a run of 256 scales |
//! | `weight.quant_state.bitsandbytes__nf4` | u8 | JSON: shape, lengths of runs, `nested_offset` |
//!
//! A scale of two levels is `map[absmax] * nested_absmax + nested_offset`; it is decoded here.
//!
//! 8 bits: `weight` `[n, k]` of i8 and `SCB` `[n]`, f32, the largest magnitude of a row, which 127
//! stands for. The package multiplies inputs above 6 as they are and rounds the others to 8 bits;
//! here no input is rounded.

use bytes::Bytes;
use nvllm_core::weight::{Code, Offset, ScaleType, Table, TensorInfo, WHOLE, WeightFormat};
use nvllm_core::{CanonicalTensor, Result};
use serde_json::Value;

use super::fields::Fields;
use super::layout::{Layout, empty};
use super::module::{Module, Part, f32_bytes};

/// The layout that a config names: either of two.
pub(super) fn parse(fields: &Fields<'_>) -> Result<Box<dyn Layout>> {
    let (eight, four) = (fields.flag("load_in_8bit", false)?, fields.flag("load_in_4bit", false)?);
    match (eight, four) {
        (true, false) => Ok(Box::new(Int8)),
        (false, true) => {
            const FIELD: &str = "bnb_4bit_quant_type";
            match fields.text(FIELD)? {
                Some("nf4") => Ok(Box::new(FourBits(Table::Nf4))),
                // The package's own default.
                None | Some("fp4") => Ok(Box::new(FourBits(Table::BnbFp4))),
                _ => Err(fields.refuse(FIELD, "nf4 and fp4 are supported")),
            }
        }
        _ => Err(fields.refuse("load_in_4bit", "one of load_in_4bit and load_in_8bit has to be true")),
    }
}

/// `LLM.int8`.
#[derive(Debug)]
struct Int8;

impl Int8 {
    fn read(module: &Module<'_>) -> Result<([usize; 2], Part, Part)> {
        let weight = module.part(".weight")?.typed(&[("I8", 1)])?;
        let shape = weight.matrix()?;
        let scales = module.part(".SCB")?.typed(&[("F32", 4)])?.shaped(&shape[..1], "a scale a row")?;
        // 0 is rows; others are the orders of instructions that are gone.
        if let Some(order) = module.find(".weight_format")?.filter(|order| order.raw.bytes != [0_u8][..]) {
            return Err(order.bad("names an order of the weight's elements other than rows (0)"));
        }
        Ok((shape, weight, scales))
    }

    const FORMAT: WeightFormat = WeightFormat::scaled(Code::I8, ScaleType::F32, [1, WHOLE], Offset::None);
}

impl Layout for Int8 {
    fn name(&self) -> &'static str {
        "bitsandbytes"
    }

    fn marks(&self) -> &'static [&'static str] {
        &[".SCB"]
    }

    fn parts(&self) -> &'static [&'static str] {
        &[".weight", ".SCB", ".weight_format"]
    }

    fn info(&self, module: &Module<'_>) -> Result<TensorInfo> {
        let (shape, _, _) = Self::read(module)?;
        Ok(TensorInfo { shape: shape.into(), format: Self::FORMAT })
    }

    fn tensor(&self, module: &Module<'_>) -> Result<CanonicalTensor> {
        let (shape, weight, scales) = Self::read(module)?;
        let scales = f32_bytes(scales.to_f32().into_iter().map(|largest| largest / 127.0));
        Ok(CanonicalTensor { codes: weight.raw.bytes, scales, ..empty(Self::FORMAT, shape) })
    }
}

/// NF4 and FP4.
#[derive(Debug)]
struct FourBits(Table);

/// The numbers of a weight's JSON.
struct State {
    shape: [usize; 2],
    /// Elements of a run.
    block: usize,
    /// Scales of a run under one scale, and what is added to them.
    nested: Option<(usize, f32)>,
}

impl FourBits {
    fn format(&self, block: usize) -> WeightFormat {
        WeightFormat::scaled(Code::Lut4(self.0), ScaleType::F32, [1, block], Offset::None)
    }

    fn state(&self, module: &Module<'_>) -> Result<State> {
        let part = module.part(self.marks()[0])?.typed(&[("U8", 1)])?;
        let json: Value =
            serde_json::from_slice(&part.raw.bytes).map_err(|e| part.bad(format!("is not JSON: {e}")))?;
        let extent = |value: Option<&Value>| {
            value.and_then(Value::as_u64).filter(|n| (1..=1 << 28).contains(n)).map(|n| n as usize)
        };
        let needed = |field: &str| part.bad(format!("has no usable `{field}`"));
        let shape = json.get("shape").and_then(Value::as_array).map(Vec::as_slice);
        let shape = match shape {
            Some([n, k]) => extent(Some(n)).zip(extent(Some(k))),
            _ => None,
        };
        let (n, k) = shape.ok_or_else(|| needed("shape"))?;
        let block = extent(json.get("blocksize")).ok_or_else(|| needed("blocksize"))?;
        if !k.is_multiple_of(block) {
            let problem =
                format!("has {k} columns, which runs of {block} do not divide: they would cross rows");
            return Err(module.bad(problem));
        }
        let nested = match json.get("nested_blocksize") {
            None | Some(Value::Null) => None,
            some => {
                let run = extent(some).ok_or_else(|| needed("nested_blocksize"))?;
                let offset = json.get("nested_offset").and_then(Value::as_f64);
                Some((run, offset.ok_or_else(|| needed("nested_offset"))? as f32))
            }
        };
        Ok(State { shape: [n, k], block, nested })
    }

    /// The weight's parts, as many and as large as they have to be.
    fn read(&self, module: &Module<'_>) -> Result<(State, Part)> {
        let state = self.state(module)?;
        let [n, k] = state.shape;
        let weight = module.part(".weight")?;
        if weight.raw.bytes.len() != n * k / 2 || !k.is_multiple_of(2) {
            let (bytes, needed) = (weight.raw.bytes.len(), n * k / 2);
            return Err(weight.bad(format!("has {bytes} bytes where {n} x {k} elements take {needed}")));
        }
        let map = module.part(".weight.quant_map")?.typed(&[("F32", 4)])?.shaped(&[16], "4-bit indices")?;
        if !map.to_f32().iter().zip(self.0.values()).all(|(a, b)| a.to_bits() == b.to_bits()) {
            return Err(map.bad(format!("is not the table of {}", self.name_of_type())));
        }
        let (runs, one) = (n * k / state.block, "one for each run of elements");
        let absmax = module.part(".weight.absmax")?;
        match state.nested {
            None => drop(absmax.typed(&[("F32", 4)])?.shaped(&[runs], one)?),
            Some((run, _)) => {
                absmax.typed(&[("U8", 1)])?.shaped(&[runs], one)?;
                let map = module.part(".weight.nested_quant_map")?.typed(&[("F32", 4)])?;
                map.shaped(&[256], "8-bit indices")?;
                let nested = module.part(".weight.nested_absmax")?.typed(&[("F32", 4)])?;
                nested.shaped(&[runs.div_ceil(run)], "one for each run of scales")?;
            }
        }
        Ok((state, weight))
    }

    fn scales(module: &Module<'_>, state: &State) -> Result<Bytes> {
        let absmax = module.part(".weight.absmax")?;
        let Some((run, offset)) = state.nested else { return Ok(absmax.raw.bytes) };
        let map = module.part(".weight.nested_quant_map")?.to_f32();
        let nested = module.part(".weight.nested_absmax")?.to_f32();
        let runs = absmax.raw.bytes.chunks(run).zip(nested);
        Ok(f32_bytes(runs.flat_map(|(run, scale)| {
            let map = &map;
            run.iter().map(move |&index| map[usize::from(index)] * scale + offset)
        })))
    }

    fn name_of_type(&self) -> &'static str {
        if self.0 == Table::Nf4 { "nf4" } else { "fp4" }
    }
}

impl Layout for FourBits {
    fn name(&self) -> &'static str {
        "bitsandbytes"
    }

    fn marks(&self) -> &'static [&'static str] {
        if self.0 == Table::Nf4 { &[NF4_STATE] } else { &[FP4_STATE] }
    }

    fn parts(&self) -> &'static [&'static str] {
        &[
            ".weight",
            ".weight.absmax",
            ".weight.quant_map",
            ".weight.nested_absmax",
            ".weight.nested_quant_map",
            NF4_STATE,
            FP4_STATE,
        ]
    }

    fn info(&self, module: &Module<'_>) -> Result<TensorInfo> {
        let (state, _) = self.read(module)?;
        Ok(TensorInfo { shape: state.shape.into(), format: self.format(state.block) })
    }

    fn tensor(&self, module: &Module<'_>) -> Result<CanonicalTensor> {
        let (state, weight) = self.read(module)?;
        let codes = weight.raw.bytes.iter().map(|byte| byte.rotate_left(4)).collect::<Vec<_>>();
        Ok(CanonicalTensor {
            codes: codes.into(),
            scales: Self::scales(module, &state)?,
            ..empty(self.format(state.block), state.shape)
        })
    }
}

pub(super) const NF4_STATE: &str = ".weight.quant_state.bitsandbytes__nf4";
pub(super) const FP4_STATE: &str = ".weight.quant_state.bitsandbytes__fp4";
