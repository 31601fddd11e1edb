//! Filters on numbers.

use minijinja::{State, Value};

use super::number::{parse_float, parse_int, round_float, round_int, truncate};
use super::values::{Result, as_int, as_number, bind, defined, error, flag, int as int_argument, is_float};

pub(super) fn abs(_: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    bind::<0>("abs", args, [], 0)?;
    match (as_int(value), as_number(value)) {
        (Some(x), _) => {
            x.checked_abs().map(Value::from).ok_or_else(|| error("an integer of more than 128 bits"))
        }
        (None, Some(x)) => Ok(Value::from(x.abs())),
        (None, None) => Err(error(format!("abs() needs a number, not {}", value.kind()))),
    }
}

/// `int(value, base)`, else `int(float(value))`, else the default.
pub(super) fn int(_: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [default, base] = bind("int", args, ["default", "base"], 0)?;
    let base = base.as_ref().map_or(Ok(10), int_argument)?;
    let parsed = if let Some(text) = defined(value)?.as_str() {
        let base = u32::try_from(base).ok().filter(|base| *base == 0 || (2..=36).contains(base));
        match base.map(|base| parse_int(text, base)).transpose()?.flatten() {
            Some(value) => Some(value),
            None => parse_float(text).and_then(|x| truncate(x).ok()),
        }
    } else if is_float(value) {
        Some(truncate(as_number(value).unwrap_or(f64::NAN))?)
    } else {
        as_int(value)
    };
    Ok(parsed.map_or_else(|| default.unwrap_or(Value::from(0)), Value::from))
}

pub(super) fn float(_: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [default] = bind("float", args, ["default"], 0)?;
    let parsed = match defined(value)?.as_str() {
        Some(text) => parse_float(text),
        None => as_number(value),
    };
    Ok(parsed.map_or_else(|| default.unwrap_or(Value::from(0.0)), Value::from))
}

pub(super) fn round(_: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [precision, method] = bind("round", args, ["precision", "method"], 0)?;
    let digits = precision.as_ref().map_or(Ok(0), int_argument)?;
    let method = method.unwrap_or_else(|| Value::from("common"));
    let method = method.as_str().unwrap_or_default();
    if !["common", "ceil", "floor"].contains(&method) {
        return Err(error("method must be common, ceil or floor"));
    }
    let Some(x) = as_number(defined(value)?) else {
        return Err(error(format!("type {} has no rounding", value.kind())));
    };
    if method == "common" {
        return Ok(match as_int(value) {
            Some(int) => Value::from(round_int(int, digits)),
            None => Value::from(round_float(x, digits)),
        });
    }
    let unit = 10f64.powi(digits.clamp(-400, 400) as i32);
    let scaled = x * unit;
    let whole = truncate(if method == "ceil" { scaled.ceil() } else { scaled.floor() })?;
    Ok(Value::from(whole as f64 / unit))
}

pub(super) fn filesizeformat(_: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let [binary] = bind("filesizeformat", args, ["binary"], 0)?;
    let binary = flag(binary);
    let bytes =
        match defined(value)?.as_str() {
            Some(text) => parse_float(text)
                .ok_or_else(|| error(format!("could not convert string to float: '{text}'")))?,
            None => as_number(value)
                .ok_or_else(|| error(format!("a number is required, not '{}'", value.kind())))?,
        };
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok(Value::from("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::from(format!("{} Bytes", truncate(bytes)?)));
    }
    let letters = ['k', 'M', 'G', 'T', 'P', 'E', 'Z', 'Y'];
    let mut unit = base;
    for (at, letter) in letters.into_iter().enumerate() {
        unit *= base;
        if bytes < unit || at + 1 == letters.len() {
            let prefix =
                if binary { format!("{}i", letter.to_ascii_uppercase()) } else { letter.to_string() };
            return Ok(Value::from(format!("{:.1} {prefix}B", base * bytes / unit)));
        }
    }
    Ok(Value::from(()))
}
