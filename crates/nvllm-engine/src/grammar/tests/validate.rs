//! Whether a JSON value follows a schema, for the keywords that [`super::schemas`] draws. Written
//! from the specification (2020-12), so that it shares no reading with the library.

use regex::Regex;
use serde_json::Value;

/// The first keyword that `value` breaks.
pub(super) fn broken(schema: &Value, value: &Value, root: &Value) -> Option<String> {
    let fields = match schema {
        Value::Bool(true) => return None,
        Value::Object(fields) => fields,
        _ => return Some("false".into()),
    };
    let follows = |part: &Value, value: &Value| broken(part, value, root).is_none();
    let nullable = fields.get("nullable") == Some(&Value::Bool(true)) && value.is_null();
    for (keyword, given) in fields.iter().filter(|_| !nullable) {
        let parts = || given.as_array().unwrap().iter();
        let holds = match keyword.as_str() {
            "type" => match given {
                Value::Array(kinds) => kinds.iter().any(|kind| is_of(value, kind.as_str().unwrap())),
                kind => is_of(value, kind.as_str().unwrap()),
            },
            "enum" => parts().any(|one| one == value),
            "const" => given == value,
            "anyOf" => parts().any(|part| follows(part, value)),
            "oneOf" => parts().filter(|part| follows(part, value)).count() == 1,
            "allOf" => parts().all(|part| follows(part, value)),
            "$ref" => follows(root.pointer(given.as_str().unwrap().trim_start_matches('#')).unwrap(), value),
            "$defs" | "title" | "description" | "nullable" => true,
            _ => match value {
                Value::Number(number) if keyword == "multipleOf" => is_multiple(number, given),
                Value::Number(number) => of_number(keyword, given, number.as_f64().unwrap()),
                Value::String(text) => of_string(keyword, given, text),
                Value::Array(items) => of_array(keyword, given, items, fields.get("prefixItems"), &follows),
                Value::Object(object) => of_object(keyword, given, object, schema, &follows),
                _ => true,
            },
        };
        if !holds {
            return Some(format!("{keyword}: {given} for {value}"));
        }
    }
    None
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type {other}"),
    }
}

fn of_number(keyword: &str, given: &Value, number: f64) -> bool {
    let bound = || given.as_f64().unwrap();
    match keyword {
        "minimum" => number >= bound(),
        "maximum" => number <= bound(),
        "exclusiveMinimum" => number > bound(),
        "exclusiveMaximum" => number < bound(),
        _ => true,
    }
}

/// Of whole numbers only.
fn is_multiple(number: &serde_json::Number, given: &Value) -> bool {
    let divisor = given.as_i64().unwrap();
    match (number.as_i64(), number.as_u64()) {
        (Some(number), _) => number % divisor == 0,
        (None, Some(number)) => number % divisor as u64 == 0,
        // Beyond 64 bits digits are lost.
        _ => number.as_f64().is_some_and(|number| number.abs() > 1e18 || number % divisor as f64 == 0.0),
    }
}

fn of_string(keyword: &str, given: &Value, text: &str) -> bool {
    let matches = |regex: &str| Regex::new(regex).unwrap().is_match(text);
    match keyword {
        "minLength" => text.chars().count() as u64 >= given.as_u64().unwrap(),
        "maxLength" => text.chars().count() as u64 <= given.as_u64().unwrap(),
        "pattern" => matches(given.as_str().unwrap()),
        "format" => match given.as_str().unwrap() {
            "uuid" => matches("^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"),
            "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
            "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
            other => panic!("no format {other}"),
        },
        _ => true,
    }
}

fn of_array(
    keyword: &str,
    given: &Value,
    items: &[Value],
    prefix: Option<&Value>,
    follows: &dyn Fn(&Value, &Value) -> bool,
) -> bool {
    let num_first = prefix.and_then(Value::as_array).map_or(0, Vec::len);
    match keyword {
        "minItems" => items.len() as u64 >= given.as_u64().unwrap(),
        "maxItems" => items.len() as u64 <= given.as_u64().unwrap(),
        "prefixItems" => given.as_array().unwrap().iter().zip(items).all(|(part, item)| follows(part, item)),
        "items" => items.iter().skip(num_first).all(|item| follows(given, item)),
        _ => true,
    }
}

fn of_object(
    keyword: &str,
    given: &Value,
    object: &serde_json::Map<String, Value>,
    schema: &Value,
    follows: &dyn Fn(&Value, &Value) -> bool,
) -> bool {
    let matches = |regex: &str, name: &str| Regex::new(regex).unwrap().is_match(name);
    match keyword {
        "required" => {
            given.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
        }
        "minProperties" => object.len() as u64 >= given.as_u64().unwrap(),
        "maxProperties" => object.len() as u64 <= given.as_u64().unwrap(),
        "properties" => {
            let parts = given.as_object().unwrap();
            object.iter().all(|(name, value)| parts.get(name).is_none_or(|part| follows(part, value)))
        }
        "patternProperties" => object.iter().all(|(name, value)| {
            let mut parts = given.as_object().unwrap().iter().filter(|(regex, _)| matches(regex, name));
            parts.all(|(_, part)| follows(part, value))
        }),
        "additionalProperties" => object.iter().all(|(name, value)| {
            let patterns = schema["patternProperties"].as_object();
            let is_listed = schema["properties"].get(name).is_some()
                || patterns.is_some_and(|all| all.keys().any(|regex| matches(regex, name)));
            is_listed || follows(given, value)
        }),
        _ => true,
    }
}

#[test]
fn every_keyword_can_be_broken() {
    use serde_json::json;
    for (schema, good, bad) in [
        (json!({"type": "integer"}), json!(1.0), json!(1.5)),
        (json!({"type": ["string", "null"]}), json!(null), json!(1)),
        (json!({"enum": [1, "a"]}), json!("a"), json!(2)),
        (json!({"const": {"a": 1}}), json!({"a": 1}), json!({})),
        (json!({"anyOf": [{"type": "null"}, {"const": 1}]}), json!(1), json!(2)),
        (json!({"oneOf": [{"type": "integer"}, {"minimum": 5}]}), json!(1), json!(6)),
        (json!({"allOf": [{"type": "integer"}, {"minimum": 5}]}), json!(6), json!(1)),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}), json!(null), json!(1)),
        (json!({"minimum": 1}), json!(1), json!(0)),
        (json!({"maximum": 1}), json!(1), json!(2)),
        (json!({"exclusiveMinimum": 1}), json!(2), json!(1)),
        (json!({"exclusiveMaximum": 1}), json!(0), json!(1)),
        (json!({"multipleOf": 3}), json!(-9), json!(4)),
        (json!({"minLength": 2}), json!("éé"), json!("é")),
        (json!({"maxLength": 1}), json!("é"), json!("éé")),
        (json!({"pattern": "b"}), json!("abc"), json!("ac")),
        (json!({"format": "date"}), json!("2024-02-29"), json!("2023-02-29")),
        (json!({"format": "ipv4"}), json!("1.2.3.4"), json!("1.2.3.256")),
        (json!({"minItems": 1}), json!([1]), json!([])),
        (json!({"maxItems": 1}), json!([1]), json!([1, 2])),
        (
            json!({"prefixItems": [{"type": "null"}], "items": {"type": "string"}}),
            json!([null, "a"]),
            json!([null, 1]),
        ),
        (json!({"prefixItems": [{"type": "null"}]}), json!([null, 1]), json!([1])),
        (json!({"required": ["a"]}), json!({"a": 1}), json!({})),
        (json!({"minProperties": 1}), json!({"a": 1}), json!({})),
        (json!({"maxProperties": 1}), json!({"a": 1}), json!({"a": 1, "b": 1})),
        (json!({"properties": {"a": {"type": "null"}}}), json!({"b": 1}), json!({"a": 1})),
        (json!({"patternProperties": {"^a": {"type": "null"}}}), json!({"ba": 1}), json!({"ab": 1})),
        (json!({"properties": {"a": true}, "additionalProperties": false}), json!({"a": 1}), json!({"b": 1})),
    ] {
        assert_eq!(broken(&schema, &good, &schema), None, "{schema}");
        assert!(broken(&schema, &bad, &schema).is_some(), "{schema} takes {bad}");
    }
}
