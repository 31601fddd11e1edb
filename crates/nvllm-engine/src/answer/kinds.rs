//! What a value may be by its schema, where it is written without quotes.

use serde_json::{Map, Value};

/// References that are followed, one from another.
const MAX_DEPTH: usize = 16;

/// The kinds of JSON values that a schema allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each kind may be allowed or not")]
pub(crate) struct Kinds {
    text: bool,
    integer: bool,
    number: bool,
    boolean: bool,
    null: bool,
    container: bool,
}

impl Kinds {
    const TEXT: Self =
        Self { text: true, integer: false, number: false, boolean: false, null: false, container: false };

    /// The kinds that `schema`, a part of `root`, allows. A schema that names none is for texts, as
    /// vLLM takes it.
    pub(crate) fn of(schema: &Value, root: &Value) -> Self {
        let mut kinds = Self::default();
        kinds.add(schema, root, MAX_DEPTH, &mut Vec::new());
        if kinds == Self::default() { Self::TEXT } else { kinds }
    }

    /// Whether every value is a text.
    pub(crate) fn is_text(self) -> bool {
        self == Self::TEXT
    }

    /// Whether a value may be a text.
    pub(crate) fn may_be_text(self) -> bool {
        self.text
    }

    /// References that were `followed` are not followed again: they may lead to each other many
    /// times over.
    fn add<'a>(&mut self, schema: &'a Value, root: &'a Value, depth: usize, followed: &mut Vec<&'a str>) {
        let Some(fields) = schema.as_object().filter(|_| depth > 0) else { return };
        match fields.get("type") {
            Some(Value::String(kind)) => self.add_named(kind),
            Some(Value::Array(kinds)) => {
                kinds.iter().filter_map(Value::as_str).for_each(|kind| self.add_named(kind));
            }
            _ => self.add_untyped(fields, root, depth, followed),
        }
        if fields.get("nullable") == Some(&Value::Bool(true)) {
            self.null = true;
        }
    }

    fn add_untyped<'a>(
        &mut self,
        fields: &'a Map<String, Value>,
        root: &'a Value,
        depth: usize,
        followed: &mut Vec<&'a str>,
    ) {
        for value in
            fields.get("enum").and_then(Value::as_array).into_iter().flatten().chain(fields.get("const"))
        {
            match value {
                Value::String(_) => self.text = true,
                Value::Number(number) if number.is_f64() => self.number = true,
                Value::Number(_) => self.integer = true,
                Value::Bool(_) => self.boolean = true,
                Value::Null => self.null = true,
                Value::Array(_) | Value::Object(_) => self.container = true,
            }
        }
        for list in ["anyOf", "oneOf", "allOf"] {
            let parts = fields.get(list).and_then(Value::as_array).into_iter().flatten();
            parts.for_each(|part| self.add(part, root, depth - 1, followed));
        }
        let reference = fields.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix('#'));
        if let Some(at) = reference.filter(|at| !followed.contains(at)) {
            followed.push(at);
            if let Some(part) = root.pointer(at) {
                self.add(part, root, depth - 1, followed);
            }
        }
        let containers = ["properties", "items", "additionalProperties", "prefixItems", "required"];
        self.container |= containers.iter().any(|keyword| fields.contains_key(*keyword));
    }

    /// A type as JSON schemas name it; other names are those that vLLM reads.
    fn add_named(&mut self, kind: &str) {
        match kind.to_ascii_lowercase().as_str() {
            "null" => self.null = true,
            "boolean" | "bool" | "binary" => self.boolean = true,
            "object" | "array" | "arr" => self.container = true,
            kind if kind.starts_with("dict") || kind.starts_with("list") => self.container = true,
            kind if kind.starts_with("num") || kind.starts_with("float") => self.number = true,
            kind if ["int", "uint", "long", "short", "unsigned"]
                .iter()
                .any(|name| kind.starts_with(name)) =>
            {
                self.integer = true;
            }
            _ => self.text = true,
        }
    }

    /// The JSON text of a value that is written as `text`. What is of no allowed kind is a text.
    pub(crate) fn json(self, text: &str) -> String {
        let word = text.trim();
        let is_null = word.eq_ignore_ascii_case("null") || word.eq_ignore_ascii_case("none");
        if is_null && (self.null || !self.text) {
            return "null".into();
        }
        if self.boolean && (word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false")) {
            return word.to_ascii_lowercase();
        }
        let is_allowed = match serde_json::from_str(word) {
            Ok(Value::Number(number)) => self.number || self.integer && !number.is_f64(),
            Ok(Value::Array(_) | Value::Object(_)) => self.container,
            _ => false,
        };
        if is_allowed { word.into() } else { Value::from(text).to_string() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_that_lead_to_each_other_are_followed_once() {
        let many: Vec<Value> = (0..100).map(|at| json!({ "$ref": format!("#/$defs/{}", at % 2) })).collect();
        let root = json!({ "$defs": { "0": { "anyOf": many }, "1": { "anyOf": many, "type": "integer" } } });
        let kinds = Kinds::of(&json!({ "anyOf": many }), &root);
        assert!(kinds.integer && !kinds.text);
    }

    #[test]
    fn values_have_the_types_of_their_schemas() {
        let root = json!({"$defs": {"n": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}});
        for (schema, text, value) in [
            (json!({"type": "string"}), "12", r#""12""#),
            (json!({"type": "string"}), "null", r#""null""#),
            (json!({}), "12", r#""12""#),
            (json!({"type": "integer"}), " 12\n", "12"),
            (json!({"type": "integer"}), "1.5", r#""1.5""#),
            (json!({"type": "integer"}), "None", "null"),
            (json!({"type": "number"}), "1.50", "1.50"),
            (json!({"type": "number"}), "12", "12"),
            (json!({"type": "number"}), "twelve", r#""twelve""#),
            (json!({"type": "boolean"}), "True", "true"),
            (json!({"type": "boolean"}), "yes", r#""yes""#),
            (json!({"type": "object"}), r#"{"a": [1]}"#, r#"{"a": [1]}"#),
            (json!({"type": "array"}), "[1, 2]", "[1, 2]"),
            (json!({"type": "array"}), "1", r#""1""#),
            (json!({"items": {}}), "[1]", "[1]"),
            (json!({"type": ["string", "null"]}), "null", "null"),
            (json!({"type": "string", "nullable": true}), "None", "null"),
            (json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}), "7", "7"),
            (json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}), "7a", r#""7a""#),
            (json!({"enum": ["a", 1]}), "1", "1"),
            (json!({"const": 1.5}), "1.5", "1.5"),
            (json!({"$ref": "#/$defs/n"}), "5", "5"),
            (json!({"$ref": "#/$defs/loop"}), "5", r#""5""#),
            (json!({"type": "string"}), "a \"b\"\n", r#""a \"b\"\n""#),
        ] {
            assert_eq!(Kinds::of(&schema, &root).json(text), value, "{text:?} as {schema}");
        }
    }
}
