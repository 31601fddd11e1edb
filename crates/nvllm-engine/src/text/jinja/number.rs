//! Numbers as Python reads and prints them. Integers have 128 bits here; beyond is an error and no
//! wrong number.

use super::strings::{is_decimal, is_space};
use super::values::{Result, error};

fn overflow() -> minijinja::Error {
    error("an integer of more than 128 bits")
}

/// `repr` of a float: the shortest digits that read back the same, with an exponent below 1e-4 and
/// from 1e16 on.
pub(super) fn float(x: f64) -> String {
    if !x.is_finite() {
        return match (x.is_nan(), x > 0.0) {
            (true, _) => "nan",
            (false, true) => "inf",
            (false, false) => "-inf",
        }
        .to_owned();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = x.to_string();
        if plain.contains('.') { plain } else { plain + ".0" }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.abs())
    }
}

/// Digits of all scripts as those of ASCII.
fn ascii_digits(text: &str) -> String {
    let digit = |c: char| {
        if c.is_ascii() || !is_decimal(c) {
            return c;
        }
        // Decimal digits come in runs of whole tens.
        let first =
            (0..=c as u32).rev().take_while(|code| char::from_u32(*code).is_some_and(is_decimal)).last();
        first.and_then(|first| char::from_digit((c as u32 - first) % 10, 10)).unwrap_or(c)
    };
    text.chars().map(digit).collect()
}

/// Removes the underscores that Python allows between digits; `None` where one is elsewhere.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('_') {
        let digit =
            |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphanumeric);
        if !digit(at.checked_sub(1)) || !digit(Some(at + 1)) {
            return None;
        }
    }
    Some(text.replace('_', ""))
}

/// `int(text, base)`; `Ok(None)` where it is no integer.
///
/// # Errors
/// It is one, of more than 128 bits.
pub(super) fn parse_int(text: &str, base: u32) -> Result<Option<i128>> {
    let ascii = ascii_digits(text);
    let trimmed = ascii.trim_matches(is_space);
    let (negative, digits) = match trimmed.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let (base, mut digits) = match (prefix.as_deref(), base) {
        (Some("0x"), 0 | 16) => (16, &digits[2..]),
        (Some("0o"), 0 | 8) => (8, &digits[2..]),
        (Some("0b"), 0 | 2) => (2, &digits[2..]),
        (_, 0) if digits.starts_with('0') && !digits.trim_matches(['0', '_']).is_empty() => return Ok(None),
        (_, 0) => (10, digits),
        (_, base) => (base, digits),
    };
    if trimmed.len() > digits.len() + usize::from(negative) {
        digits = digits.strip_prefix('_').unwrap_or(digits);
    }
    let Some(digits) = without_underscores(digits) else { return Ok(None) };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return Ok(None);
    }
    let signed = if negative { format!("-{digits}") } else { digits };
    i128::from_str_radix(&signed, base).map(Some).map_err(|_| overflow())
}

/// `float(text)`
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let digits = without_underscores(ascii_digits(text).trim_matches(is_space))?;
    let word = digits.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let named = matches!(word.as_str(), "inf" | "infinity" | "nan");
    if !named && !word.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    digits.parse().ok()
}

/// `int(x)` of a float.
///
/// # Errors
/// It is not finite, or beyond 128 bits.
pub(super) fn truncate(x: f64) -> Result<i128> {
    if x.is_nan() {
        Err(error("cannot convert float NaN to integer"))
    } else if x.abs() >= 1e38 {
        Err(overflow())
    } else {
        Ok(x as i128)
    }
}

/// `round(x, digits)` of a float: to the nearest, and of two equally near to the even digit.
pub(super) fn round_float(x: f64, digits: i128) -> f64 {
    if !x.is_finite() || digits > 400 {
        x
    } else if digits >= 0 {
        format!("{x:.*}", digits as usize).parse().unwrap_or(x)
    } else if digits < -308 {
        0.0 * x
    } else {
        let unit = 10f64.powi(-digits as i32);
        (x / unit).round_ties_even() * unit
    }
}

/// `round(x, digits)` of an integer.
pub(super) fn round_int(x: i128, digits: i128) -> i128 {
    if digits >= 0 {
        return x;
    }
    let Some(unit) = u32::try_from(-digits).ok().and_then(|digits| 10i128.checked_pow(digits)) else {
        return 0;
    };
    let (whole, rest) = (x.div_euclid(unit), x.rem_euclid(unit));
    let up = rest * 2 > unit || (rest * 2 == unit && whole % 2 != 0);
    (whole + i128::from(up)).saturating_mul(unit)
}
