//! The rotary embedding in the terms of config.json.

use nvllm_core::{CoreError, DType, Result};
use serde_json::{Map, Value, json};

use crate::architecture::Keys;

/// `rope_theta`, and `rope_scaling` if there is one.
pub(crate) fn read(keys: &Keys<'_>, head_dim: u64) -> Result<Map<String, Value>> {
    let theta = keys.f64_opt("rope.freq_base")?.unwrap_or(10_000.0);
    let mut map = Map::new();
    map.insert("rope_theta".into(), theta.into());
    let scaling = match (named(keys)?, factors(keys)?) {
        (scaling, None) => scaling,
        (None, Some(factors)) => llama3(theta, head_dim, &factors)?,
        (Some(_), Some(_)) => {
            let problem = "is given beside the tensor `rope_freqs.weight`; one of them is supported";
            return Err(keys.error("rope.scaling.type", problem));
        }
    };
    scaling.into_iter().for_each(|scaling| drop(map.insert("rope_scaling".into(), scaling)));
    Ok(map)
}

/// The scaling that metadata name. A factor without a type scales linearly.
fn named(keys: &Keys<'_>) -> Result<Option<Value>> {
    const TYPE: &str = "rope.scaling.type";
    let old = keys.f64_opt("rope.scale_linear")?;
    let factor = keys.f64_opt("rope.scaling.factor")?.or(old).filter(|&x| x != 0.0);
    let key = keys.key(TYPE);
    let Some(factor) = factor else {
        return match keys.gguf.metadata().str_opt(&key)? {
            None | Some("none" | "linear") => Ok(None),
            Some(kind) => Err(keys.error("rope.scaling.factor", format!("is missing, and {TYPE} is {kind}"))),
        };
    };
    match keys.gguf.metadata().str_opt(&key)?.unwrap_or("linear") {
        "none" => Ok(None),
        "linear" if factor == 1.0 => Ok(None),
        "linear" => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
        "yarn" => yarn(keys, factor).map(Some),
        kind => Err(keys.error(TYPE, format!("is {kind}; none, linear and yarn are supported"))),
    }
}

fn yarn(keys: &Keys<'_>, factor: f64) -> Result<Value> {
    const LOG: &str = "rope.scaling.yarn_log_multiplier";
    const ATTN: &str = "rope.scaling.yarn_attn_factor";
    let mut scaling = json!({"rope_type": "yarn", "factor": factor});
    if let Some(len) = keys.extent_opt("rope.scaling.original_context_length")? {
        scaling["original_max_position_embeddings"] = len.into();
    }
    if let Some(x) = keys.f64_opt(LOG)?.filter(|&x| x != 0.0) {
        return Err(keys.error(LOG, format!("is {x}, which is not supported")));
    }
    // 0 and what is below stand for a default in ggml.
    let given = |name: &str| Ok::<_, CoreError>(keys.f64_opt(name)?.filter(|&x| x > 0.0));
    for (field, name) in [
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
        ("extrapolation_factor", "rope.scaling.yarn_ext_factor"),
    ] {
        given(name)?.into_iter().for_each(|x| scaling[field] = x.into());
    }
    if let Some(x) = given("rope.scaling.attn_factor")?.filter(|&x| x != 1.0) {
        scaling["attn_factor"] = x.into();
    }
    // Writers put here what config.json has as attention_factor, which replaces YaRN's own, or as
    // attn_factor, which multiplies it.
    let own = 0.1 * factor.max(1.0).ln() + 1.0;
    if let Some(x) = given(ATTN)?.filter(|&x| x != 1.0 && (x / own - 1.0).abs() > 1e-6) {
        let problem = format!("is {x}, which may replace YaRN's own {own} or multiply it; 1 is supported");
        return Err(keys.error(ATTN, problem));
    }
    Ok(scaling)
}

/// What each frequency is divided by, if the file says so.
fn factors(keys: &Keys<'_>) -> Result<Option<Vec<f32>>> {
    const NAME: &str = "rope_freqs.weight";
    for name in ["rope_factors_long.weight", "rope_factors_short.weight"] {
        if keys.gguf.has(name) {
            let problem = "holds factors of LongRoPE, which is not supported".into();
            return Err(CoreError::BadTensor { name: name.into(), problem });
        }
    }
    if !keys.gguf.has(NAME) {
        return Ok(None);
    }
    let tensor = keys.gguf.tensor(NAME)?;
    if tensor.kind.name != "F32" || tensor.shape.len() != 1 {
        let problem = format!("is {:?} in {}; one row of F32 is needed", tensor.shape, tensor.kind.name);
        return Err(CoreError::BadTensor { name: NAME.into(), problem });
    }
    Ok(Some((0..tensor.shape[0]).map(|i| DType::F32.read(&tensor.bytes, i)).collect()))
}

/// Llama 3's scaling, if that is where the factors come from: writers keep its factors and not its
/// parameters. The published parameters but the factor are the same in all of its models
/// (Grattafiori et al. 2024, "The Llama 3 Herd of Models", and the models' config.json).
fn llama3(theta: f64, head_dim: u64, factors: &[f32]) -> Result<Option<Value>> {
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    const ORIGINAL: f64 = 8192.0;
    if factors.iter().all(|&x| x == 1.0) {
        return Ok(None);
    }
    // The lowest frequency is divided by the factor itself.
    let factor = f64::from(factors.iter().copied().fold(f32::NAN, f32::max));
    let expected = |i: usize| {
        let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
        let smooth = ((ORIGINAL / wavelength - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    // Writers compute in f32: a few roundings, of which the difference above magnifies some.
    let near = |(i, &x): (usize, &f32)| (f64::from(x) / expected(i) - 1.0).abs() < 1e-4;
    if factors.len() as u64 * 2 != head_dim || !factors.iter().enumerate().all(near) {
        let problem = format!(
            "holds {} factors of frequencies that are not those of Llama 3 for a base of {theta} and heads of {head_dim}; \
             no other such factors are supported",
            factors.len()
        );
        return Err(CoreError::BadTensor { name: "rope_freqs.weight".into(), problem });
    }
    Ok(Some(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": ORIGINAL as u64,
    })))
}
