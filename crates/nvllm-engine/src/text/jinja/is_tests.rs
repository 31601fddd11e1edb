//! The tests after `is` in which minijinja differs: what Python counts as iterable, as a sequence,
//! as a number.

use minijinja::value::ValueKind;
use minijinja::{Environment, Value};

use super::values::{Result, as_int, as_number, error, is_namespace};

pub(super) fn add(env: &mut Environment<'static>) {
    env.add_test("iterable", |value: &Value| {
        use ValueKind::{Iterable, Map, Seq, String, Undefined};
        matches!(value.kind(), Undefined | String | Seq | Map | Iterable) && !is_namespace(value)
    });
    env.add_test("sequence", |value: &Value| value.is_undefined() || value.len().is_some());
    env.add_test("mapping", |value: &Value| value.kind() == ValueKind::Map && !is_namespace(value));
    env.add_test("number", |value: &Value| as_number(value).is_some());
    env.add_test("callable", |value: &Value| matches!(value.kind(), ValueKind::Undefined | ValueKind::Plain));
    env.add_test("even", |value: &Value| is_rest(value, 0));
    env.add_test("odd", |value: &Value| is_rest(value, 1));
}

/// `value % 2 == rest`
fn is_rest(value: &Value, rest: i128) -> Result<bool> {
    match (as_int(value), as_number(value)) {
        (Some(int), _) => Ok(int.rem_euclid(2) == rest),
        (None, Some(float)) => Ok(float.rem_euclid(2.0) == rest as f64),
        (None, None) => Err(error(format!("{} is neither even nor odd", value.kind()))),
    }
}
