//! The configuration of compressed-tensors: how a group of modules is quantised.

use nvllm_core::Result;
use nvllm_core::weight::{ActQuant, Code};
use serde_json::Value;

use super::super::fields::Fields;
use super::Blocks;

/// How weights and inputs are quantised.
pub(super) struct Scheme<'a> {
    pub(super) format: Format,
    pub(super) code: Code,
    pub(super) weights: Weights<'a>,
    pub(super) act: Option<ActQuant>,
}

/// How the codes lie in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One a byte.
    InPlace,
    /// Several in a word.
    Packed,
}

/// `weights` of a group of the configuration.
pub(super) struct Weights<'a> {
    fields: Fields<'a>,
    pub(super) bits: i64,
    pub(super) blocks: Blocks,
    pub(super) asymmetric: bool,
    pub(super) act_order: bool,
}

impl<'a> Scheme<'a> {
    /// The scheme of `group`, a group of the configuration `fields`.
    pub(super) fn parse(fields: &Fields<'a>, group: &Fields<'a>) -> Result<Self> {
        // A group may have a format of its own, and has one where there is none for all.
        let mixed = fields.text("format")? == Some("mixed-precision");
        let owner = if mixed || group.get("format").is_some() { group } else { fields };
        let format = match owner.text("format")? {
            Some("int-quantized" | "float-quantized" | "naive-quantized") => Format::InPlace,
            Some("pack-quantized") => Format::Packed,
            _ => {
                let known =
                    "int-quantized, float-quantized, naive-quantized and pack-quantized are supported";
                return Err(owner.refuse("format", known));
            }
        };
        group.refuse_content("output_activations", "quantised outputs are not supported")?;
        let weights = group.object("weights")?.ok_or_else(|| group.refuse("weights", "it is needed"))?;
        let float = is_float(&weights)?;
        let weights = Weights::parse(weights, float)?;
        let code = match (float, format) {
            (true, Format::Packed) => {
                return Err(owner.refuse("format", "float weights are read from float-quantized"));
            }
            (true, Format::InPlace) => Code::E4M3,
            (false, _) => Code::I8,
        };
        let act = group.object("input_activations")?.map(|inputs| input(&inputs)).transpose()?.flatten();
        Ok(Self { format, code, weights, act })
    }
}

fn is_float(fields: &Fields<'_>) -> Result<bool> {
    match fields.text("type")? {
        None | Some("int") => Ok(false),
        Some("float") => Ok(true),
        _ => Err(fields.refuse("type", "int and float are supported")),
    }
}

impl<'a> Weights<'a> {
    fn parse(fields: Fields<'a>, float: bool) -> Result<Self> {
        let bits = match fields.integer("num_bits")? {
            Some(8) => 8,
            Some(4) if !float => 4,
            _ => return Err(fields.refuse("num_bits", "4 and 8 bits of int and 8 of float are supported")),
        };
        let asymmetric = !fields.flag("symmetric", true)?;
        if float && asymmetric {
            return Err(fields.refuse("symmetric", "float weights are symmetric"));
        }
        let act_order = match fields.get("actorder") {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(Value::String(order)) if matches!(order.as_str(), "group" | "dynamic") => true,
            // Quantised in another order, and put back.
            Some(Value::String(order)) if matches!(order.as_str(), "weight" | "static") => false,
            _ => return Err(fields.refuse("actorder", "group and weight are supported")),
        };
        let blocks = blocks(&fields, float)?;
        Ok(Self { fields, bits, blocks, asymmetric, act_order })
    }

    /// Bits of a code in a word; none if codes lie one a byte.
    pub(super) fn packed_bits(&self, format: Format) -> Result<Option<usize>> {
        let wrong = match format {
            Format::InPlace => self.bits == 4,
            Format::Packed => matches!(self.blocks, Blocks::Tensor | Blocks::Block(_)),
        };
        match format {
            Format::InPlace if wrong => {
                Err(self.fields.refuse("num_bits", "4 bits are read from pack-quantized"))
            }
            Format::Packed if wrong => {
                Err(self.fields.refuse("strategy", "pack-quantized weights have groups or channels"))
            }
            Format::InPlace => Ok(None),
            Format::Packed => Ok(Some(self.bits as usize)),
        }
    }
}

fn blocks(fields: &Fields<'_>, float: bool) -> Result<Blocks> {
    match fields.text("strategy")? {
        Some("tensor") => Ok(Blocks::Tensor),
        Some("channel") => Ok(Blocks::Channel),
        Some("group") if !float => match fields.integer("group_size")? {
            Some(-1) => Ok(Blocks::Channel),
            Some(group) if group > 0 && group % 8 == 0 => Ok(Blocks::Group(group as usize)),
            _ => Err(fields.refuse("group_size", "multiples of 8, and -1 for a channel, are supported")),
        },
        Some("block") if float && is_128(fields.get("block_structure")) => Ok(Blocks::Block([128, 128])),
        Some("block") if float => Err(fields.refuse("block_structure", "blocks of [128, 128] are supported")),
        _ => {
            let known = if float { "tensor, channel and block" } else { "tensor, channel and group" };
            Err(fields.refuse("strategy", &format!("{known} are supported")))
        }
    }
}

/// `[128, 128]` or, as older files have it, `128x128`.
fn is_128(block: Option<&Value>) -> bool {
    block.is_some_and(|block| *block == Value::from(vec![128, 128]) || block.as_str() == Some("128x128"))
}

/// How inputs are quantised. A dynamic scale for a whole tensor would make a token's result depend
/// on its company: each token has its own, which is finer.
fn input(fields: &Fields<'_>) -> Result<Option<ActQuant>> {
    let float = is_float(fields)?;
    if fields.integer("num_bits")? != Some(8) {
        return Err(fields.refuse("num_bits", "inputs of 8 bits are supported"));
    }
    if !fields.flag("symmetric", true)? {
        return Err(fields.refuse("symmetric", "symmetric inputs are supported"));
    }
    let dynamic = match fields.get("dynamic") {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        _ => return Err(fields.refuse("dynamic", "true and false are supported")),
    };
    let strategy = fields.text("strategy")?;
    Ok(Some(match (strategy, dynamic, float) {
        (Some("token" | "tensor"), true, false) => ActQuant::DynTokenI8,
        (Some("token" | "tensor"), true, true) => ActQuant::DynTokenE4M3,
        (Some("group"), true, true) if fields.integer("group_size")? == Some(128) => {
            ActQuant::DynGroupE4M3(128)
        }
        (Some("tensor"), false, false) => ActQuant::StaticI8,
        (Some("tensor"), false, true) => ActQuant::StaticE4M3,
        _ => {
            let known = "dynamic inputs of a token (FP8 also of groups of 128) and static ones of a tensor are supported";
            return Err(fields.refuse("strategy", known));
        }
    }))
}
