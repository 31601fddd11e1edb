//! Characters and strings as Python sees them: its whitespace, its classes of characters, its case
//! mappings and the escapes of its literals.

use std::sync::LazyLock;

use regex::Regex;

/// `str.isspace` of one character: Unicode's white space and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Where `str.splitlines` splits.
pub(super) fn is_line_break(c: char) -> bool {
    matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// The lines of a text and the length of the break after each.
pub(super) fn lines(text: &str) -> Vec<(&str, &str)> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(end) = rest.find(is_line_break) else {
            lines.push((rest, ""));
            break;
        };
        let len = if rest[end..].starts_with("\r\n") {
            2
        } else {
            rest[end..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push((&rest[..end], &rest[end..end + len]));
        rest = &rest[end + len..];
    }
    lines
}

macro_rules! class {
    ($name:ident, $pattern:literal) => {
        pub(super) fn $name(c: char) -> bool {
            static CLASS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new($pattern).ok());
            CLASS.as_ref().is_some_and(|class| class.is_match(c.encode_utf8(&mut [0; 4])))
        }
    };
}

class!(is_letter, r"^\p{L}$");
class!(is_decimal, r"^\p{Nd}$");
class!(is_title_case, r"^\p{Lt}$");
class!(is_upper_letter, r"^\p{Uppercase}$");
class!(is_lower_letter, r"^\p{Lowercase}$");
class!(is_unprintable, r"^[\p{C}\p{Zl}\p{Zp}\p{Zs}]$");
class!(is_number_sign, r"^\p{N}$");
class!(is_identifier_start, r"^[_\p{XIDS}]$");
class!(is_identifier_part, r"^\p{XIDC}$");

/// `str.isdigit` of one character: decimals, and the digits that are superscript, circled and the
/// like.
pub(super) fn is_digit(c: char) -> bool {
    let more = matches!(c, '²' | '³' | '¹' | '\u{1369}'..='\u{1371}' | '\u{19da}' | '⁰' | '\u{2074}'..='\u{2079}'
        | '\u{2080}'..='\u{2089}' | '\u{2460}'..='\u{2468}' | '\u{2474}'..='\u{247c}' | '\u{2488}'..='\u{2490}'
        | '\u{24ea}' | '\u{24f5}'..='\u{24fd}' | '\u{24ff}' | '\u{2776}'..='\u{277e}' | '\u{2780}'..='\u{2788}'
        | '\u{278a}'..='\u{2792}' | '\u{10a40}'..='\u{10a43}' | '\u{10e60}'..='\u{10e68}'
        | '\u{11052}'..='\u{1105a}' | '\u{1f100}'..='\u{1f10a}');
    more || is_decimal(c)
}

/// `str.isnumeric` of one character: numbers, and the ideographs that mean one.
pub(super) fn is_numeric(c: char) -> bool {
    is_number_sign(c)
        || "一二三四五六七八九十百千万萬亿億兆零〇壹贰貳叁參肆伍陆陸柒捌玖拾佰仟两兩廿卅卌".contains(c)
}

pub(super) fn is_alphanumeric(c: char) -> bool {
    is_letter(c) || is_decimal(c) || is_digit(c) || is_numeric(c)
}

/// `str.isprintable` of one character: what `repr` shows as it is.
pub(super) fn is_printable(c: char) -> bool {
    c == ' ' || (' '..='~').contains(&c) || !is_unprintable(c)
}

/// Has a case: the characters that `istitle`, `isupper` and `islower` look at.
pub(super) fn is_cased(c: char) -> bool {
    is_upper_letter(c) || is_lower_letter(c) || is_title_case(c)
}

/// A character at the start of a title: mostly upper case, but digraphs and ligatures have a form
/// of their own.
pub(super) fn title_case(c: char, out: &mut String) {
    match c {
        '\u{1c4}'..='\u{1c6}' => out.push('\u{1c5}'),
        '\u{1c7}'..='\u{1c9}' => out.push('\u{1c8}'),
        '\u{1ca}'..='\u{1cc}' => out.push('\u{1cb}'),
        '\u{1f1}'..='\u{1f3}' => out.push('\u{1f2}'),
        '\u{10d0}'..='\u{10fa}' | '\u{10fd}'..='\u{10ff}' | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}' => {
            out.push(c);
        }
        '\u{1f80}'..='\u{1faf}' => out.extend(char::from_u32(c as u32 | 8)),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => out.extend(char::from_u32(c as u32 + 9)),
        _ => {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase));
        }
    }
}

/// `str.title`: a title-case letter after anything without a case.
pub(super) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for (at, c) in text.char_indices() {
        if inside {
            lower_at(text, at, c, &mut out);
        } else {
            title_case(c, &mut out);
        }
        inside = is_cased(c);
    }
    out
}

/// `str.lower` of the character at `at`: a sigma at the end of a word has its own form.
fn lower_at(text: &str, at: usize, c: char, out: &mut String) {
    if c == 'Σ' {
        let before = text[..at].chars().rev().find(|c| !is_case_ignorable(*c));
        let after = text[at + c.len_utf8()..].chars().find(|c| !is_case_ignorable(*c));
        let last = before.is_some_and(is_cased) && !after.is_some_and(is_cased);
        out.push(if last { 'ς' } else { 'σ' });
    } else {
        out.extend(c.to_lowercase());
    }
}

class!(is_case_ignorable, r"^\p{CI}$");

/// `str.capitalize`
pub(super) fn capitalize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        if at == 0 {
            title_case(c, &mut out);
        } else {
            lower_at(text, at, c, &mut out);
        }
    }
    out
}

/// `str.swapcase`
pub(super) fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        if is_upper_letter(c) {
            lower_at(text, at, c, &mut out);
        } else if is_lower_letter(c) {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

/// `str.casefold`: lower case by way of upper case, which unites the forms of one letter (`ß` and
/// `ss`, `ς` and `σ`).
pub(super) fn case_fold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Cherokee folds to upper case.
            '\u{131}' | '\u{13a0}'..='\u{13f5}' => out.push(c),
            '\u{13f8}'..='\u{13fd}' | '\u{ab70}'..='\u{abbf}' => out.extend(c.to_uppercase()),
            _ => out.extend(c.to_uppercase().flat_map(char::to_lowercase)),
        }
    }
    out
}

/// The text of a string literal, as Python's `unicode-escape`.
pub(super) fn unescape_literal(literal: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(literal.len());
    let mut rest = literal;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(c) = rest.chars().next() else { return Err("a string ends in `\\`") };
        rest = &rest[c.len_utf8()..];
        let digits = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '0'..='7' => {
                let more = rest.chars().take(2).take_while(|c| c.is_digit(8)).count();
                let text = format!("{c}{}", &rest[..more]);
                rest = &rest[more..];
                out.extend(u32::from_str_radix(&text, 8).ok().and_then(char::from_u32));
                continue;
            }
            'N' => return Err("`\\N{..}` in a string is not supported; write the character itself"),
            _ => {
                match c {
                    '\n' => {}
                    '\\' | '\'' | '"' => out.push(c),
                    'a' => out.push('\u{7}'),
                    'b' => out.push('\u{8}'),
                    'f' => out.push('\u{c}'),
                    'n' => out.push('\n'),
                    'r' => out.push('\r'),
                    't' => out.push('\t'),
                    'v' => out.push('\u{b}'),
                    other => out.extend(['\\', other]),
                }
                continue;
            }
        };
        let code = rest.get(..digits).filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()));
        let c = code.and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32);
        out.push(c.ok_or("a string has an escape that is no character")?);
        rest = &rest[digits..];
    }
    out.push_str(rest);
    Ok(out)
}
