//! Filters on addresses.

use std::sync::LazyLock;

use regex::Regex;

use minijinja::value::ValueKind;
use minijinja::{State, Value};

use super::html::{escape, escape_value};
use super::repr::to_text;
use super::strings::is_space;
use super::values::{Result, bind, charge, error, flag, given, size, text};

/// Percent escapes of all but letters, digits and `_.-~`; in a query a blank is `+`.
fn quote(state: &State<'_, '_>, value: &Value, query: bool) -> Result<String> {
    let text = to_text(state, value)?;
    charge(state, text.len().saturating_mul(3))?;
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(byte.into()),
            b'/' if !query => out.push('/'),
            b' ' if query => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(out)
}

pub(super) fn urlencode(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    bind::<0>("urlencode", args, [], 0)?;
    let pairs: Vec<(Value, Value)> = match value.kind() {
        ValueKind::Map => {
            let pair = |key: Value| value.get_item(&key).map(|value| (key, value));
            value.try_iter()?.map(pair).collect::<Result<_>>()?
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let pair = |pair: Value| -> Result<(Value, Value)> {
                <[Value; 2]>::try_from(pair.try_iter()?.collect::<Vec<_>>())
                    .map(|[key, value]| (key, value))
                    .map_err(|_| error("urlencode needs pairs of a name and a value"))
            };
            value.try_iter()?.map(pair).collect::<Result<_>>()?
        }
        _ => return quote(state, value, false).map(Value::from),
    };
    let mut parts = Vec::new();
    for (key, value) in &pairs {
        parts.push(format!("{}={}", quote(state, key, true)?, quote(state, value, true)?));
    }
    Ok(Value::from(parts.join("&")))
}

struct Links<'a> {
    limit: Option<usize>,
    attributes: String,
    schemes: &'a [String],
}

pub(super) fn urlize(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value> {
    let names = ["trim_url_limit", "nofollow", "target", "rel", "extra_schemes"];
    let [limit, nofollow, target, rel, schemes] = bind("urlize", args, names, 0)?;
    let limit = given(limit).as_ref().map(size).transpose()?;
    let rel = given(rel);
    let mut rels: Vec<&str> =
        rel.as_ref().map_or(Ok(""), text)?.split(is_space).filter(|r| !r.is_empty()).collect();
    rels.push("noopener");
    if flag(nofollow) {
        rels.push("nofollow");
    }
    rels.sort_unstable();
    rels.dedup();
    let mut attributes = format!(" rel=\"{}\"", escape(&rels.join(" ")));
    if let Some(target) = given(target) {
        let target = escape_value(state, &target)?;
        attributes += &format!(" target=\"{}\"", target.as_str().unwrap_or_default());
    }
    let mut extra = Vec::new();
    if let Some(schemes) = given(schemes) {
        for scheme in schemes.try_iter()? {
            let scheme = text(&scheme)?.to_owned();
            let name = scheme.trim_end_matches('/').strip_suffix(':').unwrap_or_default();
            let slashes = scheme.len() - scheme.trim_end_matches('/').len();
            let allowed = |c: char| c == '_' || c.is_alphanumeric() || ".+-".contains(c);
            if name.chars().count() < 2 || slashes > 2 || !name.chars().all(allowed) {
                return Err(error(format!("'{scheme}' is not a valid URI scheme prefix.")));
            }
            extra.push(scheme);
        }
    }
    let links = Links { limit, attributes, schemes: &extra };
    let source = escape_value(state, value)?;
    let source = source.as_str().unwrap_or_default();
    charge(state, source.len().saturating_mul(8))?;
    let mut out = String::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_space(c) != is_space(first)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if is_space(first) {
            out.push_str(word);
        } else {
            links.word(word, &mut out);
        }
        rest = after;
    }
    Ok(Value::from(out))
}

/// What is an address without saying so.
fn is_address(word: &str) -> bool {
    const RULE: &str = concat!(
        // With a scheme or `www`: a name with any top-level domain.
        r"(?i)^(?:(?:https?://|www\.)(?:(?:[\w%-]+\.)+)?(?:[a-z]{2,63}|xn--[\w%]{2,59})",
        // Without: the common domains.
        r"|(?:[\w%-]{2,63}\.)+(?:com|net|int|edu|gov|org|info|mil)",
        // Numeric addresses of both lengths.
        r"|https?://(?:\d{1,3}(?:\.\d{1,3}){3}|\[(?:[\da-f]{0,4}:){2}(?:[\da-f]{0,4}:?){1,6}\]))",
        r"(?::\d{1,5})?(?:[/?#]\S*)?$",
    );
    static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(RULE).ok());
    ADDRESS.as_ref().is_some_and(|rule| rule.is_match(word))
}

fn is_mail(word: &str) -> bool {
    static MAIL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\S+@\w[\w.-]*\.\w+$").ok());
    MAIL.as_ref().is_some_and(|rule| rule.is_match(word))
}

impl Links<'_> {
    fn word(&self, word: &str, out: &mut String) {
        const OPENING: [&str; 3] = ["(", "<", "&lt;"];
        const CLOSING: [&str; 6] = [")", ">", ".", ",", "\n", "&gt;"];
        let mut middle = word;
        while let Some(after) = OPENING.iter().find_map(|open| middle.strip_prefix(open)) {
            middle = after;
        }
        let (head, whole) = word.split_at(word.len() - middle.len());
        while let Some(before) = CLOSING.iter().find_map(|close| middle.strip_suffix(close)) {
            middle = before;
        }
        let mut end = middle.len();
        // A bracket that was opened within is closed within.
        for (open, close) in [("(", ")"), ("<", ">"), ("&lt;", "&gt;")] {
            let opened = whole[..end].matches(open).count();
            if opened > whole[..end].matches(close).count() {
                for _ in 0..opened.min(whole[end..].matches(close).count()) {
                    end += whole[end..].find(close).map_or(0, |at| at + close.len());
                }
            }
        }
        let (middle, tail) = whole.split_at(end);
        out.push_str(head);
        self.link(middle, out);
        out.push_str(tail);
    }

    fn link(&self, word: &str, out: &mut String) {
        let attributes = &self.attributes;
        if is_address(word) {
            let shown = match self.limit {
                Some(limit) if word.chars().count() > limit => {
                    format!("{}...", word.chars().take(limit).collect::<String>())
                }
                _ => word.to_owned(),
            };
            let full = word.starts_with("https://") || word.starts_with("http://");
            let scheme = if full { "" } else { "https://" };
            *out += &format!("<a href=\"{scheme}{word}\"{attributes}>{shown}</a>");
        } else if let Some(mail) = word.strip_prefix("mailto:").filter(|mail| is_mail(mail)) {
            *out += &format!("<a href=\"{word}\">{mail}</a>");
        } else if word.contains('@')
            && !word.starts_with("www.")
            && !word.starts_with('@')
            && !word.contains(':')
            && is_mail(word)
        {
            *out += &format!("<a href=\"mailto:{word}\">{word}</a>");
        } else {
            let mut linked = word.to_owned();
            for scheme in self.schemes {
                if linked != *scheme && linked.starts_with(scheme) {
                    linked = format!("<a href=\"{linked}\"{attributes}>{linked}</a>");
                }
            }
            out.push_str(&linked);
        }
    }
}
