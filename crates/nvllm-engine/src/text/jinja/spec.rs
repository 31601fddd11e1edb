//! Format specifications: `format(value, ">10.2f")`.

use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

use super::number;
use super::repr::to_text;
use super::values::{Result, as_int, as_number, charge, error};

#[derive(Debug, Clone, Default)]
pub(super) struct Spec {
    pub(super) fill: Option<char>,
    pub(super) align: Option<char>,
    pub(super) sign: Option<char>,
    pub(super) alternate: bool,
    pub(super) zeros: bool,
    pub(super) width: usize,
    pub(super) grouping: Option<char>,
    pub(super) precision: Option<usize>,
    pub(super) kind: Option<char>,
}

fn parse(text: &str) -> Result<Spec> {
    let chars: Vec<char> = text.chars().collect();
    let mut spec = Spec::default();
    let mut at = 0;
    let is_align = |c: Option<&char>| c.is_some_and(|c| "<>=^".contains(*c));
    if is_align(chars.get(1)) {
        spec.fill = Some(chars[0]);
        spec.align = Some(chars[1]);
        at = 2;
    } else if is_align(chars.first()) {
        spec.align = Some(chars[0]);
        at = 1;
    }
    let skip = |wanted: &str, at: &mut usize| {
        let found = chars.get(*at).copied().filter(|c| wanted.contains(*c));
        *at += usize::from(found.is_some());
        found
    };
    spec.sign = skip("+- ", &mut at);
    spec.alternate = skip("#", &mut at).is_some();
    spec.zeros = skip("0", &mut at).is_some();
    let number = |at: &mut usize| -> Result<Option<usize>> {
        let digits: String = chars[*at..].iter().take_while(|c| c.is_ascii_digit()).collect();
        *at += digits.len();
        if digits.is_empty() {
            return Ok(None);
        }
        digits.parse().map(Some).map_err(|_| error("too many decimal digits in format string"))
    };
    spec.width = number(&mut at)?.unwrap_or(0);
    spec.grouping = skip(",_", &mut at);
    if skip(".", &mut at).is_some() {
        let precision = number(&mut at)?;
        spec.precision = Some(precision.ok_or_else(|| error("format specifier missing precision"))?);
    }
    spec.kind = chars.get(at).copied();
    if chars.len() > at + 1 {
        return Err(error(format!("invalid format specifier '{text}'")));
    }
    Ok(spec)
}

/// `format(value, spec)`
pub(super) fn format(state: &State<'_, '_>, value: &Value, spec: &str) -> Result<String> {
    if spec.is_empty() {
        return to_text(state, value);
    }
    let spec = parse(spec)?;
    charge(state, spec.width.saturating_mul(4).saturating_add(spec.precision.unwrap_or(0)))?;
    match value.kind() {
        ValueKind::String => {
            if !matches!(spec.kind, None | Some('s'))
                || spec.sign.is_some()
                || spec.grouping.is_some()
                || spec.alternate
            {
                return Err(wrong(&spec, value));
            }
            if spec.align == Some('=') {
                return Err(error("'=' alignment not allowed in string format specifier"));
            }
            let cut: String = value
                .as_str()
                .unwrap_or_default()
                .chars()
                .take(spec.precision.unwrap_or(usize::MAX))
                .collect();
            Ok(pad(&spec, "", &cut, '<'))
        }
        ValueKind::Bool if spec.kind.is_none() => format_int(&spec, &Value::from(u8::from(value.is_true()))),
        ValueKind::Bool => format_int(&spec, value),
        ValueKind::Number if value.is_integer() => format_int(&spec, value),
        ValueKind::Number => format_float(&spec, as_number(value).unwrap_or(f64::NAN)),
        kind => Err(error(format!("unsupported format string passed to {kind}"))),
    }
}

fn wrong(spec: &Spec, value: &Value) -> Error {
    let kind = spec.kind.unwrap_or('s');
    error(format!("format code '{kind}' does not fit an object of type '{}'", value.kind()))
}

fn format_int(spec: &Spec, value: &Value) -> Result<String> {
    let x = as_int(value).unwrap_or(0);
    let magnitude = x.unsigned_abs();
    let (prefix, digits) = match spec.kind {
        None | Some('d' | 'n') => ("", magnitude.to_string()),
        Some('b') => ("0b", format!("{magnitude:b}")),
        Some('o') => ("0o", format!("{magnitude:o}")),
        Some('x') => ("0x", format!("{magnitude:x}")),
        Some('X') => ("0X", format!("{magnitude:X}")),
        Some('c') => {
            let c = u32::try_from(x).ok().and_then(char::from_u32);
            let c = c.ok_or_else(|| error("%c arg not in range(0x110000)"))?;
            return Ok(pad(spec, "", &c.to_string(), '<'));
        }
        Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => return format_float(spec, x as f64),
        _ => return Err(wrong(spec, value)),
    };
    if spec.precision.is_some() {
        return Err(error("precision not allowed in integer format specifier"));
    }
    let every = if matches!(spec.kind, Some('b' | 'o' | 'x' | 'X')) { 4 } else { 3 };
    let prefix = if spec.alternate { prefix } else { "" };
    let sign = format!("{}{prefix}", sign(spec, x < 0));
    Ok(grouped(spec, &sign, &digits, "", every))
}

fn sign(spec: &Spec, negative: bool) -> &'static str {
    match spec.sign {
        _ if negative => "-",
        Some('+') => "+",
        Some(' ') => " ",
        _ => "",
    }
}

fn format_float(spec: &Spec, x: f64) -> Result<String> {
    let negative = x.is_sign_negative() && !x.is_nan();
    let body = match spec.kind {
        None => match spec.precision {
            None => number::float(x.abs()),
            // As `g`, with one digit after the point at least.
            Some(precision) => general(x.abs(), precision, spec.alternate, true),
        },
        Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
            let value = if kind == '%' { x.abs() * 100.0 } else { x.abs() };
            let text = digits(value, kind.to_ascii_lowercase(), spec.precision.unwrap_or(6), spec.alternate);
            let text = if kind == '%' { text + "%" } else { text };
            if kind.is_ascii_uppercase() { text.to_uppercase() } else { text }
        }
        Some('n') => general(x.abs(), spec.precision.unwrap_or(6), spec.alternate, false),
        _ => return Err(wrong(spec, &Value::from(x))),
    };
    let whole = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
    Ok(grouped(spec, sign(spec, negative), &body[..whole], &body[whole..], 3))
}

/// The digits of a number that is not negative, as `%e`, `%f`, `%g` print them.
pub(super) fn digits(x: f64, kind: char, precision: usize, alternate: bool) -> String {
    if !x.is_finite() {
        return number::float(x);
    }
    match kind {
        'e' => exponent(x, precision, alternate),
        'g' => general(x, precision, alternate, false),
        _ => {
            let text = format!("{x:.precision$}");
            if alternate && precision == 0 { text + "." } else { text }
        }
    }
}

fn exponent(x: f64, precision: usize, alternate: bool) -> String {
    let text = format!("{x:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let point = if alternate && precision == 0 { "." } else { "" };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}{point}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn general(x: f64, precision: usize, alternate: bool, keep_point: bool) -> String {
    if !x.is_finite() {
        return number::float(x);
    }
    let precision = precision.max(1);
    let rounded = format!("{x:.*e}", precision - 1);
    let power: i32 = rounded.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let limit = precision as i32 - i32::from(keep_point);
    let fixed = (-4..limit).contains(&power);
    let text = if fixed {
        format!("{x:.*}", usize::try_from(precision as i32 - 1 - power).unwrap_or(0))
    } else {
        exponent(x, precision - 1, alternate)
    };
    if alternate {
        return text;
    }
    let (mantissa, tail) = text.find('e').map_or((&*text, ""), |at| text.split_at(at));
    let short =
        if mantissa.contains('.') { mantissa.trim_end_matches('0').trim_end_matches('.') } else { mantissa };
    let point = if keep_point && fixed && !short.contains('.') { ".0" } else { "" };
    format!("{short}{point}{tail}")
}

/// Puts separators between the digits and pads the whole.
fn grouped(spec: &Spec, sign: &str, whole: &str, rest: &str, every: usize) -> String {
    let zeros = spec.zeros && spec.align.is_none() || spec.align == Some('=') && spec.fill == Some('0');
    let group = |digits: &str| match spec.grouping {
        None => digits.to_owned(),
        Some(separator) => {
            let mut out = String::new();
            for (at, c) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at).is_multiple_of(every) {
                    out.push(separator);
                }
                out.push(c);
            }
            out
        }
    };
    let mut digits = whole.to_owned();
    if zeros && spec.grouping.is_some() && whole.bytes().all(|b| b.is_ascii_hexdigit()) && !whole.is_empty() {
        // Zeros count as digits and are grouped with them.
        while sign.len() + group(&digits).len() + rest.len() < spec.width {
            digits.insert(0, '0');
        }
    }
    let number = group(&digits) + rest;
    pad(spec, sign, &number, '>')
}

/// Pads to the width; `=` puts the filling after the sign.
pub(super) fn pad(spec: &Spec, sign: &str, body: &str, default: char) -> String {
    let numeric = default == '>';
    let align = spec.align.unwrap_or(if spec.zeros && numeric { '=' } else { default });
    let fill = spec.fill.unwrap_or(if spec.zeros { '0' } else { ' ' });
    let missing = spec.width.saturating_sub(sign.len() + body.chars().count());
    let run = |count: usize| fill.to_string().repeat(count);
    match align {
        '<' => format!("{sign}{body}{}", run(missing)),
        '^' => format!("{}{sign}{body}{}", run(missing / 2), run(missing - missing / 2)),
        '=' => format!("{sign}{}{body}", run(missing)),
        _ => format!("{}{sign}{body}", run(missing)),
    }
}
