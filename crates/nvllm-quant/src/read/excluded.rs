//! Modules that a configuration leaves dense.

use fancy_regex::Regex;
use nvllm_core::Result;

use super::fields::Fields;

/// Names and patterns of modules. What is dense and what is coded the tensors say; a module that is
/// coded although it is on the list would mean something else to who reads the list.
#[derive(Debug, Default)]
pub(super) struct Excluded(Vec<Rule>);

#[derive(Debug)]
enum Rule {
    /// A module, its name's end, or all modules within it.
    Name(String),
    /// What a pattern finds.
    Pattern(Regex),
}

impl Excluded {
    /// All lists that the schemes have, under whatever name.
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self> {
        const DYNAMIC: &str = "dynamic";
        let mut rules = Vec::new();
        for list in ["ignore", "ignored_layers", "modules_to_not_convert", "llm_int8_skip_modules"] {
            for entry in fields.texts(list)? {
                rules.push(match entry.strip_prefix("re:") {
                    Some(text) => Rule::Pattern(pattern(text).map_err(|why| fields.error(list, why))?),
                    None => Rule::Name(entry),
                });
            }
        }
        // GPTQModel: settings for some modules, of which `-:` is none at all.
        for entry in fields.object(DYNAMIC)?.iter().flat_map(Fields::names) {
            let Some(text) = entry.strip_prefix("-:") else {
                let problem = format!("has settings for `{entry}`; one scheme for all layers is supported");
                return Err(fields.error(DYNAMIC, problem));
            };
            rules.push(Rule::Pattern(pattern(text).map_err(|why| fields.error(DYNAMIC, why))?));
        }
        Ok(Self(rules))
    }

    /// Whether the module is on the list.
    pub(super) fn contains(&self, module: &str) -> bool {
        self.0.iter().any(|rule| match rule {
            Rule::Name(name) => {
                let after = module.strip_prefix(name.as_str());
                let before = module.strip_suffix(name.as_str());
                after.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                    || before.is_some_and(|rest| rest.ends_with('.'))
            }
            Rule::Pattern(pattern) => pattern.is_match(module).unwrap_or(false),
        })
    }
}

/// What Python's `re.match` finds in a name: from its start.
///
/// Errors, in words about the field, for what is no pattern.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{text})")).map_err(|_| format!("has `{text}`, which is no pattern"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn excluded(config: &Value) -> Result<Excluded> {
        Excluded::parse(&Fields::new("quantization_config", config.as_object().unwrap()))
    }

    #[test]
    fn names_are_whole_modules_and_patterns_begin_at_the_start() {
        let list =
            excluded(&json!({"ignore": ["lm_head", "model.layers.1", "re:.*mlp.gate$", "re:head"]})).unwrap();
        for module in ["lm_head", "model.lm_head", "model.layers.1.mlp.up_proj", "model.layers.0.mlp.gate"] {
            assert!(list.contains(module), "{module}");
        }
        for module in ["my_lm_head", "model.layers.10.mlp.up_proj", "model.layers.0.mlp.gate_proj", "a.head"]
        {
            assert!(!list.contains(module), "{module}");
        }
        let list = excluded(&json!({"dynamic": {"-:.*o_proj": {}}, "modules_to_not_convert": null})).unwrap();
        assert!(list.contains("model.layers.0.self_attn.o_proj") && !list.contains("lm_head"));
        // Python's look-around, which a pattern of a finite automaton does not have.
        let list = excluded(&json!({"ignored_layers": ["re:(?!.*mlp).*proj"]})).unwrap();
        assert!(list.contains("a.q_proj") && !list.contains("mlp.up_proj"));
    }

    #[test]
    fn what_is_no_list_or_no_pattern_is_named() {
        for (config, words) in [
            (json!({"ignore": "lm_head"}), "`quantization_config.ignore` is \"lm_head\"; a list of strings"),
            (json!({"ignore": ["re:("]}), "`quantization_config.ignore` has `(`, which is no pattern"),
            (json!({"dynamic": {"+:.*": {"bits": 8}}}), "has settings for `+:.*`; one scheme"),
        ] {
            let message = excluded(&config).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
