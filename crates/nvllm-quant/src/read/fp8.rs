//! FP8 as transformers calls it: `DeepSeek`'s and `Qwen3`'s own, in blocks of 128 x 128 with inputs
//! in groups of 128 (DeepSeek-AI 2024, arXiv 2412.19437), and one scale for a whole weight.
//!
//! `weight` `[n, k]` is E4M3. `weight_scale_inv` `[n / 128, k / 128]`, rounded up, multiplies it:
//! it is the inverse of what it was divided by. The one scale of a whole weight is
//! `weight_scale_inv` too, and that of its inputs, if it is static, `activation_scale`; older
//! writers call these `weight_scale` and `input_scale`.

use nvllm_core::weight::{ActQuant, Code, TensorInfo};
use nvllm_core::{CanonicalTensor, Result};
use serde_json::Value;

use super::fields::Fields;
use super::layout::Layout;
use super::module::Module;
use super::scaled::{Blocks, Scaled};

#[derive(Debug)]
pub(super) struct Fp8(Scaled);

impl Fp8 {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self> {
        const BLOCK: &str = "weight_block_size";
        if !matches!(fields.text("fmt")?, None | Some("e4m3" | "float8_e4m3fn")) {
            return Err(fields.refuse("fmt", "e4m3 is supported"));
        }
        if !matches!(fields.text("scale_fmt")?, None | Some("float")) {
            return Err(fields.refuse("scale_fmt", "float is supported"));
        }
        let dynamic = match fields.text("activation_scheme")? {
            None | Some("dynamic") => true,
            Some("static") => false,
            _ => return Err(fields.refuse("activation_scheme", "dynamic and static are supported")),
        };
        let Some(block) = fields.get(BLOCK) else {
            let act = if dynamic { ActQuant::DynTokenE4M3 } else { ActQuant::StaticE4M3 };
            return Ok(Self::scaled(Blocks::Tensor, act, &[".weight_scale_inv", ".weight_scale"]));
        };
        if *block != Value::from(vec![128, 128]) {
            return Err(fields.refuse(BLOCK, "[128, 128], and none for one scale a weight, are supported"));
        }
        if !dynamic {
            return Err(fields.refuse("activation_scheme", "blocks run on dynamic inputs"));
        }
        Ok(Self::scaled(Blocks::Block([128, 128]), ActQuant::DynGroupE4M3(128), &[".weight_scale_inv"]))
    }

    fn scaled(blocks: Blocks, act: ActQuant, scale: &'static [&'static str]) -> Self {
        Self(Scaled { code: Code::E4M3, blocks, act: Some(act), scale, asymmetric: false })
    }
}

impl Layout for Fp8 {
    fn name(&self) -> &'static str {
        "fp8"
    }

    fn marks(&self) -> &'static [&'static str] {
        self.0.scale
    }

    fn parts(&self) -> &'static [&'static str] {
        &[".weight", ".weight_scale", ".weight_scale_inv", ".input_scale", ".activation_scale"]
    }

    fn info(&self, module: &Module<'_>) -> Result<TensorInfo> {
        self.0.info(module)
    }

    fn tensor(&self, module: &Module<'_>) -> Result<CanonicalTensor> {
        self.0.tensor(module)
    }
}
