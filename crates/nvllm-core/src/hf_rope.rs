//! Rotary embedding of a `config.json`: every key that changes numbers is applied, or refused by
//! its name.

use serde_json::{Map, Value};

use crate::hf_config::number;
use crate::program::RopeScaling;
use crate::{CoreError, HfConfig, Result};

/// Base and scaling of a rotation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HfRope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Context extension.
    pub scaling: RopeScaling,
}

/// Keys that are read here, or that change nothing (`finetuned` is a note by whoever made the
/// model).
const KNOWN: [&str; 18] = [
    "attention_factor",
    "attn_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "finetuned",
    "high_freq_factor",
    "low_freq_factor",
    "max_position_embeddings",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "extrapolation_factor",
    "rope_theta",
    "rope_type",
    "truncate",
    "type",
];

/// Keys that are supported at 1 only, where they change nothing.
const ONLY_ONE: [&str; 2] = ["extrapolation_factor", "partial_rotary_factor"];

impl HfRope {
    /// From `rope_scaling` (the hub's layout, and what model cards tell to add) or else
    /// `rope_parameters` (transformers 5).
    ///
    /// With both the first counts, as in transformers; the base may still come from the second.
    pub fn read(config: &HfConfig) -> Result<Self> {
        let parameters = Fields::of(config, "rope_parameters")?;
        let fields = match Fields::of(config, "rope_scaling")? {
            scaling if scaling.map.is_some() => scaling,
            _ => parameters,
        };
        fields.check_keys()?;
        if config.number_or("partial_rotary_factor", 1.0)? != 1.0 {
            return Err(CoreError::config(
                "partial_rotary_factor",
                "is not 1; rotating part of a head is not supported",
            ));
        }
        let common = number("rope_theta", config.get("rope_theta"))?;
        let theta = match fields.number("rope_theta")?.or(common) {
            Some(theta) => theta,
            None => parameters.number("rope_theta")?.unwrap_or(10_000.0),
        };
        if theta <= 1.0 {
            return Err(CoreError::config("rope_theta", format!("is {theta}; a number above 1 is needed")));
        }
        Ok(Self { theta, scaling: fields.scaling(config)? })
    }
}

/// One of the two objects, under its name.
#[derive(Clone, Copy)]
struct Fields<'a> {
    name: &'static str,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    fn of(config: &'a HfConfig, name: &'static str) -> Result<Self> {
        let map = match config.get(name) {
            None => None,
            // An empty object is as good as none to transformers.
            Some(Value::Object(map)) => Some(map).filter(|map| !map.is_empty()),
            Some(other) => return Err(CoreError::config(name, format!("is {other}; an object is needed"))),
        };
        Ok(Self { name, map })
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        number(&format!("{}.{key}", self.name), self.get(key))
    }

    fn bad(&self, key: &str, problem: impl Into<String>) -> CoreError {
        CoreError::config(&format!("{}.{key}", self.name), problem)
    }

    fn check_keys(&self) -> Result<()> {
        for (key, _) in self.map.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            if !KNOWN.contains(&key.as_str()) {
                return Err(self.bad(
                    key,
                    "is not known, and may change what the model computes; remove it if it does not",
                ));
            }
        }
        for key in ONLY_ONE {
            if let Some(other) = self.number(key)?.filter(|&x| x != 1.0) {
                return Err(self.bad(key, format!("is {other}; only 1 is supported")));
            }
        }
        Ok(())
    }

    fn scaling(&self, config: &HfConfig) -> Result<RopeScaling> {
        match self.kind()? {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: self.factor()? }),
            "yarn" => self.yarn(config),
            "llama3" => self.llama3(config),
            other => {
                Err(self
                    .bad("rope_type", format!("is {other}; default, linear, yarn and llama3 are supported")))
            }
        }
    }

    fn kind(&self) -> Result<&'a str> {
        match self.get("rope_type").or_else(|| self.get("type")) {
            Some(kind) => {
                kind.as_str().ok_or_else(|| self.bad("rope_type", format!("is {kind}; a name is needed")))
            }
            None if self.get("factor").is_some() => {
                Err(self.bad("rope_type", "is missing; it says what factor scales (yarn, linear, llama3)"))
            }
            None => Ok("default"),
        }
    }

    fn factor(&self) -> Result<f64> {
        match self.number("factor")? {
            Some(factor) if factor >= 1.0 => Ok(factor),
            Some(factor) => Err(self.bad("factor", format!("is {factor}; at least 1 is needed"))),
            None => Err(self.bad("factor", "is missing")),
        }
    }

    fn original_len(&self, config: &HfConfig) -> Result<usize> {
        let key = "original_max_position_embeddings";
        let len =
            self.number(key)?.map_or_else(|| config.extent("max_position_embeddings"), |n| Ok(n as usize))?;
        if len == 0 { Err(self.bad(key, "is 0; at least 1 is needed")) } else { Ok(len) }
    }

    fn yarn(&self, config: &HfConfig) -> Result<RopeScaling> {
        let factor = self.factor()?;
        let truncate = match self.get("truncate") {
            None => true,
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.bad("truncate", format!("is {value}; true or false is needed")))?,
        };
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: self.number("beta_fast")?.unwrap_or(32.0),
            beta_slow: self.number("beta_slow")?.unwrap_or(1.0),
            original_len: self.original_len(config)?,
            attention_factor: self.attention_factor(factor)?,
            truncate,
        })
    }

    /// As given; else by `mscale`, as DeepSeek's models have it; else YaRN's own. `attn_factor`
    /// multiplies what is not given, as in vLLM: models that carry it were trained with it.
    fn attention_factor(&self, factor: f64) -> Result<f64> {
        if let Some(given) = self.number("attention_factor")? {
            return Ok(given);
        }
        let scale = |mscale: f64| if factor > 1.0 { 0.1 * mscale * factor.ln() + 1.0 } else { 1.0 };
        let nonzero = |x: Option<f64>| x.filter(|&x| x != 0.0);
        let own = match (nonzero(self.number("mscale")?), nonzero(self.number("mscale_all_dim")?)) {
            (Some(mscale), Some(all_dim)) => scale(mscale) / scale(all_dim),
            _ => scale(1.0),
        };
        Ok(own * self.number("attn_factor")?.unwrap_or(1.0))
    }

    fn llama3(&self, config: &HfConfig) -> Result<RopeScaling> {
        let low = self.number("low_freq_factor")?.unwrap_or(1.0);
        let high = self.number("high_freq_factor")?.unwrap_or(4.0);
        if low <= 0.0 || high <= low {
            let problem =
                format!("is {high}; it must exceed low_freq_factor, which is {low} and must exceed 0");
            return Err(self.bad("high_freq_factor", problem));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.factor()?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_len: self.original_len(config)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: &Value) -> Result<HfRope> {
        HfRope::read(&HfConfig::parse(config.to_string().as_bytes()).unwrap())
    }

    fn attention_factor(rope: HfRope) -> f64 {
        let RopeScaling::Yarn { attention_factor, .. } = rope.scaling else { panic!("{rope:?}") };
        attention_factor
    }

    #[test]
    fn rope_scaling_goes_before_rope_parameters() {
        let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
        let parameters = json!({"rope_theta": 5e5, "rope_type": "default"});
        let both = read(&json!({"rope_parameters": parameters, "rope_scaling": yarn})).unwrap();
        assert_eq!(both, read(&json!({"rope_theta": 5e5, "rope_scaling": yarn})).unwrap());
        for nothing in [json!(null), json!({})] {
            let plain = read(&json!({"rope_parameters": parameters, "rope_scaling": nothing})).unwrap();
            assert_eq!(plain, HfRope { theta: 5e5, scaling: RopeScaling::None });
        }
    }

    #[test]
    fn every_key_of_the_attention_factor_is_applied() {
        let yarn = |more: Value| {
            let mut map = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
            map.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            attention_factor(read(&json!({ "rope_scaling": map })).unwrap())
        };
        let own = 0.1 * 4.0_f64.ln() + 1.0;
        assert_eq!(yarn(json!({})), own);
        assert_eq!(yarn(json!({"attn_factor": 0.5})), own * 0.5);
        assert_eq!(yarn(json!({"attention_factor": 0.7})), 0.7);
        assert_eq!(yarn(json!({"mscale": 1.0, "mscale_all_dim": 1.0})), 1.0);
        assert_eq!(yarn(json!({"mscale": 2.0, "mscale_all_dim": 1.0})), (0.2 * 4.0_f64.ln() + 1.0) / own);
    }

    #[test]
    fn what_is_not_applied_is_refused_by_name() {
        for (key, value) in [
            ("mrope_section", json!([1, 2])),
            ("partial_rotary_factor", json!(0.5)),
            ("extrapolation_factor", json!(2)),
            ("truncate", json!("no")),
            ("rope_type", json!(1)),
            ("full_attention", json!({"rope_type": "default"})),
        ] {
            for field in ["rope_scaling", "rope_parameters"] {
                let mut map =
                    json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
                map[key] = value.clone();
                let text = read(&json!({ field: map })).unwrap_err().to_string();
                assert!(text.contains(&format!("{field}.{key}")), "{text}");
            }
        }
        let text = read(&json!({"rope_scaling": {"factor": 4.0}})).unwrap_err().to_string();
        assert!(text.contains("`rope_scaling.rope_type` is missing"), "{text}");
        let text = read(&json!({"partial_rotary_factor": 0.5})).unwrap_err().to_string();
        assert!(text.contains("partial_rotary_factor"), "{text}");
    }
}
