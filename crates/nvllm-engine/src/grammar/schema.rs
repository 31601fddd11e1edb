//! A JSON schema as the library takes it: what it would silently read in another way is rewritten
//! or refused.

use serde_json::{Map, Value, json};

/// White space between two tokens of JSON, as people and programs write it: a space, or an end of
/// line with an indentation. Without a bound small models go on with blanks for ever.
const WHITE_SPACE: &str = r" |\r?\n[ \t]{0,32}";

/// The largest least common multiple of a schema's `multipleOf`.
const MAX_MULTIPLE: u64 = 20_000;

/// The library's own options, inside a schema.
const OPTIONS: &str = "x-guidance";

/// Keywords whose values are not schemas.
const DATA: [&str; 6] = ["const", "enum", "default", "examples", "example", OPTIONS];

/// The schema with bounded white space, and `nullable` as a type. Errors with what is wrong.
pub(super) fn prepared(schema: &Value) -> Result<Value, String> {
    let mut schema = schema.clone();
    match &mut schema {
        // Nothing can be said in it.
        Value::Bool(true) => schema = json!({}),
        Value::Object(_) => {}
        other => return Err(format!("is {other}; give a JSON schema, which is an object")),
    }
    without_nullable(&mut schema)?;
    check_multiples(&schema)?;
    let options = schema.as_object_mut().map(|fields| fields.entry(OPTIONS).or_insert_with(|| json!({})));
    match options {
        Some(Value::Object(options)) => {
            let chosen = ["whitespace_pattern", "whitespace_flexible"];
            if !chosen.iter().any(|option| options.contains_key(*option)) {
                options.insert(chosen[0].into(), WHITE_SPACE.into());
            }
            Ok(schema)
        }
        _ => Err(format!("has {OPTIONS}, which must be an object")),
    }
}

/// Errors if the least common multiple of all `multipleOf` is large, counted in the last decimal
/// place of any: the library counts up to it where two of them meet, whatever its limits.
fn check_multiples(schema: &Value) -> Result<(), String> {
    let mut given = Vec::new();
    multiples(schema, &mut given);
    let most_decimals = given.iter().map(|(_, decimals)| *decimals).max().unwrap_or(0);
    let mut all = 1_u64;
    for (digits, decimals) in given {
        let number = 10_u64.checked_pow(most_decimals - decimals).and_then(|scale| digits.checked_mul(scale));
        let next = number.filter(|number| *number > 0);
        let next = next.and_then(|number| (all / greatest_divisor(all, number)).checked_mul(number));
        all = next.filter(|all| *all <= MAX_MULTIPLE).ok_or_else(|| {
            format!("has `multipleOf` whose least common multiple is above {MAX_MULTIPLE}; use smaller ones")
        })?;
    }
    Ok(())
}

/// The greatest common divisor.
fn greatest_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}

/// All `multipleOf`, as digits and how many of these are decimals.
fn multiples(schema: &Value, found: &mut Vec<(u64, u32)>) {
    match schema {
        Value::Array(schemas) => schemas.iter().for_each(|schema| multiples(schema, found)),
        Value::Object(fields) => {
            if let Some(Value::Number(number)) = fields.get("multipleOf") {
                let text = number.to_string();
                let (whole, decimals) = text.split_once('.').unwrap_or((&text, ""));
                let decimals = decimals.trim_end_matches('0');
                // What has an exponent is 0 here, which is refused.
                let digits = format!("{whole}{decimals}").parse().unwrap_or(0);
                found.push((digits, decimals.len() as u32));
            }
            let parts = fields.iter().filter(|(name, _)| !DATA.contains(&name.as_str()));
            parts.for_each(|(_, part)| multiples(part, found));
        }
        _ => {}
    }
}

/// `nullable: true` of OpenAPI 3.0, which the library takes for no restriction, as the type `null`
/// beside the others.
fn without_nullable(schema: &mut Value) -> Result<(), String> {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().try_for_each(without_nullable),
        Value::Object(fields) => {
            if fields.get("nullable") == Some(&Value::Bool(true)) {
                with_null(fields)?;
            }
            let parts = fields.iter_mut().filter(|(name, _)| !DATA.contains(&name.as_str()));
            parts.map(|(_, part)| part).try_for_each(without_nullable)
        }
        _ => Ok(()),
    }
}

fn with_null(fields: &mut Map<String, Value>) -> Result<(), String> {
    match fields.get_mut("type") {
        Some(Value::String(kind)) => {
            let kind = std::mem::take(kind);
            fields.insert("type".into(), json!([kind, "null"]));
        }
        Some(Value::Array(kinds)) if !kinds.contains(&json!("null")) => kinds.push("null".into()),
        Some(Value::Array(_)) => {}
        // The schema of a property that is called `nullable`, among those of others.
        Some(Value::Object(_)) => return Ok(()),
        _ => return Err("has `nullable` beside no `type`; use anyOf with {\"type\": \"null\"}".into()),
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
    fields.remove("nullable");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(schema: &Value) -> Value {
        let mut schema = prepared(schema).unwrap();
        schema.as_object_mut().unwrap().remove(OPTIONS);
        schema
    }

    #[test]
    fn nullable_becomes_a_type_wherever_it_is_a_keyword() {
        let nullable = json!({"type": "object", "properties": {
            "a": {"type": "string", "nullable": true, "enum": ["x"]},
            "b": {"items": {"type": ["string", "integer"], "nullable": true}},
            "nullable": true,
            "type": {"const": {"type": "string", "nullable": true}},
            "c": {"type": "string", "nullable": false}}});
        let types = json!({"type": "object", "properties": {
            "a": {"type": ["string", "null"], "enum": ["x", null]},
            "b": {"items": {"type": ["string", "integer", "null"]}},
            "nullable": true,
            "type": {"const": {"type": "string", "nullable": true}},
            "c": {"type": "string", "nullable": false}}});
        assert_eq!(plain(&nullable), types);
        let problem = prepared(&json!({"items": {"$ref": "#", "nullable": true}})).unwrap_err();
        assert!(problem.contains("`nullable`"), "{problem}");
    }

    #[test]
    fn multiples_that_meet_stay_small() {
        let check = |multiples: &[f64]| {
            let parts: Vec<_> = multiples.iter().map(|multiple| json!({"multipleOf": multiple})).collect();
            check_multiples(&json!({"allOf": parts, "const": {"multipleOf": 1e9}}))
        };
        for good in [&[][..], &[0.01, 5.0, 100.0], &[7.0, 3.0, 12.0], &[20_000.0]] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        for bad in [&[999_983.0][..], &[9999.0, 9998.0], &[0.0001, 3.0], &[1e300], &[0.0], &[1e-9]] {
            assert!(check(bad).unwrap_err().contains("multipleOf"), "{bad:?}");
        }
    }

    #[test]
    fn white_space_is_bounded_unless_the_schema_says_how() {
        assert_eq!(prepared(&json!(true)).unwrap(), json!({OPTIONS: {"whitespace_pattern": WHITE_SPACE}}));
        for options in [json!({"whitespace_flexible": false}), json!({"whitespace_pattern": "\\s?"})] {
            let schema = json!({OPTIONS: options});
            assert_eq!(prepared(&schema).unwrap(), schema);
        }
        assert!(prepared(&json!([1])).unwrap_err().contains("an object"));
        assert!(prepared(&json!({OPTIONS: 1})).unwrap_err().contains(OPTIONS));
    }
}
