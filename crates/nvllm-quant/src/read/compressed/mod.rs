//! compressed-tensors: int8 and FP8 weights as they are, and 4- and 8-bit ones in words.
//!
//! | format | tensors |
//! |---|---|
//! | `int-quantized`, `float-quantized`, `naive-quantized` | those of `scaled.rs` |
//! | `pack-quantized` | those of `packed.rs` |
//! | `mixed-precision` | each group of modules in one of these |

mod packed;
mod scheme;

use nvllm_core::Result;

use super::fields::Fields;
use super::layout::Layout;
use super::module::Module;
use super::scaled::{Blocks, Scaled};
use super::schemes::{Schemes, Target};
use packed::{BESIDE, Packed};
use scheme::Scheme;

/// The layouts that a config names.
pub(super) fn parse(fields: &Fields<'_>) -> Result<Schemes> {
    const FIELD: &str = "config_groups";
    fields.refuse_content("transform_config", "transforms of activations are not supported")?;
    if let Some(sparsity) = fields.object("sparsity_config")?
        && !matches!(sparsity.text("format")?, None | Some("dense"))
    {
        return Err(sparsity.refuse("format", "dense is supported"));
    }
    let groups = fields.object(FIELD)?.ok_or_else(|| fields.refuse(FIELD, "it is needed"))?;
    let of = |name: &str| groups.object(name)?.ok_or_else(|| groups.refuse(name, "an object is needed"));
    // Groups of one scheme are one.
    let mut schemes: Vec<(Fields<'_>, Box<dyn Layout>, Vec<Target>)> = Vec::new();
    for name in groups.names() {
        let group = of(name)?;
        let (layout, mut targets) = (layout(&Scheme::parse(fields, &group)?)?, Target::all_of(&group)?);
        let alike = |field: &&str, other: &Fields<'_>| group.get(field) == other.get(field);
        let same = |(other, ..): &&mut (Fields<'_>, _, _)| {
            ["format", "weights", "input_activations"].iter().all(|field| alike(field, other))
        };
        match schemes.iter_mut().find(same) {
            Some((_, _, known)) => known.append(&mut targets),
            None => schemes.push((group, layout, targets)),
        }
    }
    if schemes.is_empty() {
        return Err(fields.refuse(FIELD, "one group is needed"));
    }
    Ok(Schemes::of_groups(schemes.into_iter().map(|(_, layout, targets)| (layout, targets))))
}

fn layout(scheme: &Scheme<'_>) -> Result<Box<dyn Layout>> {
    let (weights, format) = (&scheme.weights, scheme.format);
    let &Scheme { code, act, .. } = scheme;
    let Some(bits) = weights.packed_bits(format)? else {
        let (blocks, asymmetric) = (weights.blocks, weights.asymmetric);
        let scale = &[".weight_scale"];
        return Ok(Box::new(InPlace(Scaled { code, blocks, act, scale, asymmetric })));
    };
    Ok(Box::new(Packed {
        bits,
        blocks: weights.blocks,
        asymmetric: weights.asymmetric,
        act_order: weights.act_order,
        act,
    }))
}

/// Codes of 8 bits, one a byte.
#[derive(Debug)]
struct InPlace(Scaled);

impl Layout for InPlace {
    fn name(&self) -> &'static str {
        "compressed-tensors"
    }

    fn marks(&self) -> &'static [&'static str] {
        self.0.scale
    }

    fn parts(&self) -> &'static [&'static str] {
        const PARTS: [&str; 8] = [
            ".weight",
            ".weight_scale",
            super::scaled::ZERO_POINT,
            BESIDE[0],
            BESIDE[1],
            BESIDE[2],
            BESIDE[3],
            BESIDE[4],
        ];
        &PARTS
    }

    fn info(&self, module: &Module<'_>) -> Result<nvllm_core::weight::TensorInfo> {
        super::scaled::refuse_zero_point(module, ".input_zero_point")?;
        self.0.info(module)
    }

    fn tensor(&self, module: &Module<'_>) -> Result<nvllm_core::CanonicalTensor> {
        self.0.tensor(module)
    }
}
