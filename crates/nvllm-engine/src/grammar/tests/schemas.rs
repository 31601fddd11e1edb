//! Schemas that are drawn at random, and random numbers.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Numbers from a seed, the same on every machine (xorshift64*).
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// Below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True once in `n` times.
    pub(super) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A schema with objects and lists up to `depth` deep.
pub(super) fn draw(draw: &mut Draw) -> Value {
    let mut root = object(draw, 2);
    if draw.once_in(3) && root.get("minProperties").is_none() {
        let shared = part(draw, 0);
        root["$defs"] = json!({ "shared": shared });
        root["properties"]["shared"] = json!({ "$ref": "#/$defs/shared" });
    }
    if draw.once_in(4) {
        root["title"] = "A schema".into();
    }
    root
}

fn part(draw: &mut Draw, depth: usize) -> Value {
    let num_kinds = if depth == 0 { 7 } else { 12 };
    match draw.below(num_kinds) {
        0 | 1 => string(draw),
        2 => integer(draw),
        3 => number(draw),
        4 => json!({ "type": "boolean" }),
        5 => json!({ "enum": ["red", "green", 3, null, { "a": [1] }] }),
        6 => json!({ "const": "fixed" }),
        7 => object(draw, depth - 1),
        8 => list(draw, depth - 1),
        9 => json!({ "anyOf": [part(draw, depth - 1), { "type": "null" }] }),
        10 => json!({ "oneOf": [string(draw), integer(draw)] }),
        _ => {
            json!({ "allOf": [{ "type": "integer", "minimum": draw.below(9) }, { "maximum": 9 + draw.below(90) }] })
        }
    }
}

fn object(draw: &mut Draw, depth: usize) -> Value {
    let names = ["name", "age", "tags", "a b", "ключ", "quote\"d"];
    let num = 1 + draw.below(names.len());
    let first = draw.below(names.len());
    let mut properties = Map::new();
    for i in 0..num {
        properties.insert(names[(first + i) % names.len()].into(), part(draw, depth));
    }
    let required: Vec<_> = properties.keys().filter(|_| draw.once_in(2)).cloned().collect();
    let mut schema = json!({ "type": "object", "properties": properties, "required": required });
    match draw.below(4) {
        0 | 1 => schema["additionalProperties"] = false.into(),
        2 => schema["additionalProperties"] = json!({ "type": "integer" }),
        _ => {
            schema["patternProperties"] = json!({ "^x_[a-z]+$": { "type": "boolean" } });
            schema["additionalProperties"] = false.into();
        }
    }
    if draw.once_in(8) {
        // Of listed keys only where none of them is optional.
        schema = json!({ "type": "object", "additionalProperties": part(draw, 0),
            "minProperties": 1 + draw.below(2), "maxProperties": 3 });
        schema["properties"] = json!({});
    }
    schema
}

fn list(draw: &mut Draw, depth: usize) -> Value {
    let mut schema = json!({ "type": "array", "items": part(draw, depth) });
    if draw.once_in(2) {
        schema["minItems"] = draw.below(3).into();
    }
    if draw.once_in(2) {
        schema["maxItems"] = (2 + draw.below(3)).into();
    }
    if draw.once_in(3) {
        schema["prefixItems"] = json!([part(draw, 0), { "type": "boolean" }]);
    }
    schema
}

fn string(draw: &mut Draw) -> Value {
    let mut schema = json!({ "type": "string" });
    match draw.below(6) {
        0 => schema["pattern"] = "^[A-Z][a-z]{2,5}( [0-9]+)?$".into(),
        1 => schema["pattern"] = "b+c".into(),
        2 => schema["format"] = ["date", "uuid", "ipv4"][draw.below(3)].into(),
        3 => {
            schema["minLength"] = draw.below(4).into();
            schema["maxLength"] = (4 + draw.below(20)).into();
        }
        4 => schema["nullable"] = true.into(),
        _ => schema["description"] = "any text".into(),
    }
    schema
}

fn integer(draw: &mut Draw) -> Value {
    let low = draw.below(200) as i64 - 100;
    match draw.below(4) {
        0 => json!({ "type": "integer" }),
        1 => json!({ "type": "integer", "minimum": low, "maximum": low + 1 + draw.below(1000) as i64 }),
        2 => {
            json!({ "type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 2 + draw.below(50) as i64 })
        }
        _ => json!({ "type": "integer", "multipleOf": 1 + draw.below(12) }),
    }
}

fn number(draw: &mut Draw) -> Value {
    let low = draw.below(100) as f64 / 8.0;
    match draw.below(3) {
        0 => json!({ "type": "number" }),
        1 => json!({ "type": "number", "minimum": -low, "exclusiveMaximum": low + 0.5 }),
        _ => json!({ "type": ["number", "null"], "exclusiveMinimum": low, "maximum": low * 2.0 + 1.0 }),
    }
}

/// How often each keyword stands in a schema.
pub(super) fn count(schema: &Value, counts: &mut BTreeMap<String, usize>) {
    match schema {
        Value::Array(parts) => parts.iter().for_each(|part| count(part, counts)),
        Value::Object(fields) => {
            for (keyword, given) in fields {
                *counts.entry(keyword.clone()).or_default() += 1;
                match keyword.as_str() {
                    "const" | "enum" => {}
                    "properties" | "$defs" | "patternProperties" => {
                        given.as_object().into_iter().flatten().for_each(|(_, part)| count(part, counts));
                    }
                    _ => count(given, counts),
                }
            }
        }
        _ => {}
    }
}
