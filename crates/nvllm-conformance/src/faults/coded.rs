//! Faults of a backend that reads coded weights, or refuses them.

use std::sync::Arc;

use nvllm_core::weight::{Offset, ScaleType, WHOLE};
use nvllm_core::{CanonicalTensor, Code, CoreError, ModelSpec, Result, WeightInfo, WeightSource};

/// How coded weights are misread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misread {
    /// Of two 4-bit codes the high nibble comes first.
    HighNibbleFirst,
    /// Each block has the scale of the next one.
    NextScale,
    /// Codes are taken for numbers: every scale is 1.
    NoScales,
    /// Zero points are 0.
    NoZeroPoints,
    /// Second-level scales are 1.
    NoSecondLevel,
    /// Columns are taken in stored order.
    NoColumnOrder,
    /// The input is not quantised where its scale is found as it comes.
    NoInputQuant,
    /// The input's static scale is twice what it is.
    WrongInputScale,
}

impl Misread {
    pub(super) const ALL: [Self; 8] = [
        Self::HighNibbleFirst,
        Self::NextScale,
        Self::NoScales,
        Self::NoZeroPoints,
        Self::NoSecondLevel,
        Self::NoColumnOrder,
        Self::NoInputQuant,
        Self::WrongInputScale,
    ];

    /// Cases that show it: an embedding has no input.
    pub(super) fn cases(self) -> &'static [&'static str] {
        match self {
            Self::NoInputQuant | Self::WrongInputScale => &["linear_formats", "expert_linear_formats"],
            _ => &["embed_formats", "linear_formats", "expert_linear_formats"],
        }
    }

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::HighNibbleFirst => "high nibble first",
            Self::NextScale => "the scale of the next block",
            Self::NoScales => "codes as numbers",
            Self::NoZeroPoints => "no zero points",
            Self::NoSecondLevel => "no second-level scales",
            Self::NoColumnOrder => "columns in stored order",
            Self::NoInputQuant => "an input that is not quantised",
            Self::WrongInputScale => "twice the input's scale",
        }
    }

    /// Makes of `tensor` what this backend takes it for; its size stays.
    pub(super) fn apply(self, tensor: &mut CanonicalTensor) {
        let Some(scales) = tensor.format.scales else { return };
        match self {
            Self::HighNibbleFirst if matches!(tensor.format.code, Code::U4 | Code::Lut4(_)) => {
                tensor.codes = tensor.codes.iter().map(|byte| byte.rotate_left(4)).collect();
            }
            Self::NextScale if scales.kind.bits() >= 8 && scales.block != [WHOLE; 2] => {
                let mut bytes = tensor.scales.to_vec();
                bytes.rotate_left(scales.kind.bits() / 8);
                tensor.scales = bytes.into();
            }
            Self::NoScales if scales.second.is_none() => {
                tensor.scales = ones(scales.kind, tensor.scales.len());
            }
            Self::NoZeroPoints if tensor.format.offset == Offset::Int => {
                tensor.offsets = vec![0; tensor.offsets.len()].into();
            }
            Self::NoSecondLevel => {
                if let Some(second) = scales.second {
                    tensor.second_scales = ones(second.kind, tensor.second_scales.len());
                }
            }
            Self::NoColumnOrder => {
                let len = tensor.num_cols() as u32;
                tensor.k_perm = tensor.k_perm.as_ref().map(|_| (0..len).collect::<Arc<[u32]>>());
            }
            Self::NoInputQuant if tensor.act_scale.is_none() => tensor.format.act = None,
            Self::WrongInputScale => tensor.act_scale = tensor.act_scale.map(|scale| 2.0 * scale),
            _ => {}
        }
    }
}

/// So many bytes of scales of 1.
fn ones(kind: ScaleType, len: usize) -> bytes::Bytes {
    let one: &[u8] = match kind {
        ScaleType::F32 => &[0, 0, 0x80, 0x3f],
        ScaleType::F16 => &[0, 0x3c],
        ScaleType::Bf16 => &[0x80, 0x3f],
        ScaleType::E8M0 => &[127],
        ScaleType::E4M3 => &[0x38],
        ScaleType::I8 | ScaleType::U6 => &[1],
    };
    one.iter().copied().cycle().take(len).collect()
}

/// How coded weights are refused as they must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// By `load` alone: the plan was a promise.
    Late,
    /// By `plan` alone.
    PlanOnly,
    /// Without saying which weight, or in what format.
    Nameless,
    /// After the weight's bytes have been asked for.
    AfterItsBytes,
}

impl Refusal {
    pub(super) const ALL: [Self; 4] = [Self::Late, Self::PlanOnly, Self::Nameless, Self::AfterItsBytes];

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Late => "refused by load alone",
            Self::PlanOnly => "refused by plan alone",
            Self::Nameless => "refused without a name",
            Self::AfterItsBytes => "refused after their bytes were asked for",
        }
    }

    /// Refuses a model with a coded weight, in `load` or in `plan`.
    pub(super) fn check(self, spec: &ModelSpec, source: &dyn WeightSource, in_load: bool) -> Result<()> {
        if self == Self::Late && !in_load || self == Self::PlanOnly && in_load {
            return Ok(());
        }
        for decl in &spec.weights {
            if let Err(reason) = WeightInfo::of(decl, source)?.plain() {
                if self == Self::AfterItsBytes && in_load {
                    source.tensor(&decl.parts[0].source)?;
                }
                let nameless = |reason: &str| CoreError::Unsupported {
                    backend: "faulty".into(),
                    op: "coded weights".into(),
                    reason: reason.into(),
                };
                return Err(if self == Self::Nameless {
                    nameless("it runs dense weights")
                } else {
                    decl.refused("faulty", reason)
                });
            }
        }
        Ok(())
    }
}
