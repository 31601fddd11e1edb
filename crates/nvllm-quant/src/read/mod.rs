//! Quantised checkpoints of Hugging Face's layout as canonical weights.
//!
//! config.json says once for a whole checkpoint how its linear layers are coded: `quant_method` of
//! its `quantization_config` names a scheme, and each has a file here that begins with its layout.
//! [`Quantization`] is what it says, checked: what is not supported is refused by the name of its
//! field before a tensor is looked at. [`weights`] then gives every coded module's tensors
//! (`q_proj.qweight`, `q_proj.scales`, ..) as one canonical tensor under the name that models
//! declare (`q_proj.weight`).
//!
//! Which modules are coded the tensors say, by the one that only coded modules have. All others are
//! dense: embeddings, norms, what the configuration's lists leave out. All shapes are checked when
//! a checkpoint is opened; codes are looked at when a weight is loaded.
//!
//! compressed-tensors may code groups of modules in several ways: `schemes.rs` says which is whose.
//!
//! Deliberately absent: schemes of several packages in one checkpoint, inputs with zero points,
//! codes of less than 4 bits, sparse weights.

mod awq;
mod bitsandbytes;
mod compressed;
mod excluded;
mod fields;
mod fp8;
mod gptq;
mod layout;
mod module;
mod repack;
mod scaled;
mod schemes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nvllm_core::weight::{Arranged, Checkpoint, DenseSource, TensorInfo};
use nvllm_core::{CanonicalTensor, CoreError, HfConfig, Result, WeightSource};
use serde_json::Value;

use excluded::Excluded;
use fields::Fields;
use layout::Layout;
use module::Module;
use schemes::Schemes;

/// What is read, for messages.
const SUPPORTED: &str = "gptq (4 and 8 bits), awq (gemm), bitsandbytes (int8, nf4 and fp4), compressed-tensors (int8, int4 and fp8) \
     and fp8 (blocks of 128 x 128, or one scale a weight) are supported";

/// Ends of the names of tensors that quantised checkpoints alone have.
const MARKS: [&str; 10] = [
    ".qweight",
    ".qzeros",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".SCB",
    ".weight.absmax",
    ".weight.quant_map",
    bitsandbytes::NF4_STATE,
    bitsandbytes::FP4_STATE,
];

/// How config.json says that a checkpoint is quantised.
#[derive(Debug)]
pub struct Quantization {
    schemes: Schemes,
    excluded: Excluded,
}

impl Quantization {
    /// What `config` says; none for a dense checkpoint. `compression_config`, the older name of
    /// compressed-tensors, counts where there is no `quantization_config`.
    ///
    /// Errors with [`BadConfig`](CoreError::BadConfig) for what is not supported, with the field's
    /// name and what is.
    pub fn of(config: &HfConfig) -> Result<Option<Self>> {
        let object = |field: &str| match config.get(field).map(Value::as_object) {
            Some(None) => Err(CoreError::config(field, "is not an object")),
            Some(Some(map)) if !map.is_empty() => Ok(Some(map.clone())),
            _ => Ok(None),
        };
        if object("quantization")?.is_some() {
            return Err(CoreError::config("quantization", format!("is how MLX says it; {SUPPORTED}")));
        }
        let named = |field: &'static str| Ok::<_, CoreError>(object(field)?.map(|map| (field, map)));
        let Some((field, map)) =
            named("quantization_config")?.map_or_else(|| named("compression_config"), |it| Ok(Some(it)))?
        else {
            return Ok(None);
        };
        let fields = Fields::new(field, &map);
        let method = match fields.text("quant_method")? {
            None if field == "compression_config" => "compressed-tensors",
            None if fields.flag("load_in_4bit", false)? || fields.flag("load_in_8bit", false)? => {
                "bitsandbytes"
            }
            method => method.unwrap_or_default(),
        };
        let schemes = match method {
            "gptq" => Schemes::one(Box::new(gptq::Gptq::parse(&fields)?)),
            "awq" => Schemes::one(Box::new(awq::Awq::parse(&fields)?)),
            "bitsandbytes" => Schemes::one(bitsandbytes::parse(&fields)?),
            "compressed-tensors" => compressed::parse(&fields)?,
            "fp8" => Schemes::one(Box::new(fp8::Fp8::parse(&fields)?)),
            _ => return Err(fields.refuse("quant_method", SUPPORTED)),
        };
        Ok(Some(Self { schemes, excluded: Excluded::parse(&fields)? }))
    }

    /// `quant_method`, as config.json names it.
    pub fn method(&self) -> &'static str {
        self.schemes.layout(0).name()
    }
}

/// The weights of a checkpoint under the names that models declare, as `config` says that they are
/// quantised, if they are. Dense tensors keep their names and dtypes.
///
/// Errors as [`Quantization::of`] does, and with [`BadTensor`](CoreError::BadTensor) if a coded
/// weight lacks a part, a part does not fit the others, or a part is of another scheme.
pub fn weights(config: &HfConfig, checkpoint: impl Checkpoint + Send + Sync + 'static) -> Result<Arranged> {
    if let Some(quantization) = Quantization::of(config)? {
        return Ok(Arranged::new(Quantized::new(quantization, Arc::new(checkpoint))?));
    }
    if let Some(name) = checkpoint.names().into_iter().find(|name| is_marked(name)) {
        let problem = format!("is missing, and `{name}` is a part of a quantised weight; {SUPPORTED}");
        return Err(CoreError::config("quantization_config", problem));
    }
    Ok(Arranged::new(DenseSource::new(checkpoint)))
}

fn is_marked(name: &str) -> bool {
    MARKS.iter().any(|mark| name.ends_with(mark))
}

/// A checkpoint's weights, coded ones as one tensor each.
struct Quantized {
    files: Arc<dyn Checkpoint + Send + Sync>,
    dense: DenseSource,
    schemes: Schemes,
    /// Coded weights by name, as they will come, and the group of each.
    coded: BTreeMap<String, (TensorInfo, usize)>,
    /// Names of all weights.
    names: BTreeSet<String>,
}

/// What the weight of a module is called.
const WEIGHT: &str = ".weight";

impl Quantized {
    fn new(quantization: Quantization, files: Arc<dyn Checkpoint + Send + Sync>) -> Result<Self> {
        let Quantization { schemes, excluded } = quantization;
        let mut names: BTreeSet<_> = files.names().into_iter().collect();
        schemes.check_targets(&names.iter().filter_map(|name| Some(name.rsplit_once('.')?.0)).collect())?;
        let marks: Vec<_> = schemes.layouts().flat_map(Layout::marks).collect();
        let marked = |name: &String| marks.iter().find_map(|mark| Some(name.strip_suffix(*mark)?.to_owned()));
        let modules: BTreeSet<_> = names.iter().filter_map(marked).collect();
        let mut coded = BTreeMap::new();
        for name in &modules {
            let module = Module { name, files: &*files };
            if excluded.contains(name) {
                return Err(module.bad("is coded, though config.json has it among the modules that are not"));
            }
            let group = schemes.group_of(name).map_err(|problem| module.bad(problem))?;
            let layout = schemes.layout(group);
            let info = layout.info(&module)?;
            layout.parts().iter().for_each(|part| {
                names.remove(&format!("{name}{part}"));
            });
            coded.insert(format!("{name}{WEIGHT}"), (info, group));
        }
        for name in &names {
            refuse_leftover(name, &schemes, &*files)?;
        }
        if let Some(name) = coded.keys().find(|name| names.contains(*name)) {
            let problem = "is there twice, coded and not".into();
            return Err(CoreError::BadTensor { name: name.clone(), problem });
        }
        names.extend(coded.keys().cloned());
        Ok(Self { dense: DenseSource::new(Arc::clone(&files)), files, schemes, coded, names })
    }
}

/// Errors if a tensor that belongs to no coded weight looks as if it did.
fn refuse_leftover(name: &str, schemes: &Schemes, files: &dyn Checkpoint) -> Result<()> {
    let bad = |problem: String| Err(CoreError::BadTensor { name: name.into(), problem });
    // Of a module that no target matches, the first group's.
    let mark = |module| schemes.layout(schemes.group_of(module).unwrap_or(0)).marks()[0];
    let parts = schemes.layouts().flat_map(Layout::parts);
    let own = parts.filter(|part| **part != WEIGHT).find_map(|part| name.strip_suffix(part));
    if let Some(module) = own {
        return bad(format!("belongs to `{module}{}`, which is missing", mark(module)));
    }
    if is_marked(name) {
        let method = schemes.layout(0).name();
        return bad(format!(
            "is no part of a weight as {method} codes it; one scheme in a checkpoint is supported"
        ));
    }
    let Some(module) = name.strip_suffix(WEIGHT) else { return Ok(()) };
    match files.raw(name)?.dtype.as_str() {
        "F32" | "F16" | "BF16" => Ok(()),
        dtype => bad(format!("has dtype {dtype} and no `{module}{}`", mark(module))),
    }
}

impl WeightSource for Quantized {
    fn describe(&self) -> String {
        self.files.describe()
    }

    fn names(&self) -> Vec<String> {
        self.names.iter().cloned().collect()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        self.coded.get(name).map_or_else(|| self.dense.info(name), |(info, _)| Ok(info.clone()))
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        let (Some((_, group)), Some(module)) = (self.coded.get(name), name.strip_suffix(WEIGHT)) else {
            return self.dense.tensor(name);
        };
        self.schemes.layout(*group).tensor(&Module { name: module, files: &*self.files })
    }
}
