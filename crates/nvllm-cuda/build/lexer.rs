//! Words of a kernel file: enough of C++ to find constants, and no more.

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Name(String),
    /// A whole number without a suffix.
    Number(u64),
    /// An operator or a bracket; of what no constant has in it, anything.
    Symbol(&'static str),
    /// `#include "..."`.
    Include(String),
    /// `#define NAME` of a macro without parameters; its text follows up to `DefineEnd`.
    Define(String),
    DefineEnd,
}

/// Longest first.
const SYMBOLS: [&str; 28] = [
    "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "::", "+", "-", "*", "/", "%", "<", ">", "!", "?", ":",
    "=", ",", ";", "(", ")", "{", "}", "[", "]",
];

/// What is none of these.
const OTHER: Token = Token::Symbol("other");

/// The words of `text`, comments left out.
pub(crate) fn lex(text: &str) -> Vec<Token> {
    let text = text.replace("\\\n", " ");
    let (mut rest, mut tokens, mut starts_line) = (text.as_str(), Vec::new(), true);
    while let Some(first) = rest.chars().next() {
        let was_start = starts_line;
        starts_line = first == '\n' || starts_line && first.is_whitespace();
        if first.is_whitespace() {
            rest = &rest[first.len_utf8()..];
        } else if rest.starts_with("//") {
            rest = &rest[line_len(rest)..];
        } else if rest.starts_with("/*") {
            rest = rest.split_once("*/").map_or("", |(_, after)| after);
        } else if first == '#' && was_start {
            let (line, after) = rest.split_at(line_len(rest));
            tokens.extend(directive(line));
            rest = after;
        } else if first == '"' || first == '\'' {
            rest = after_quote(rest, first);
            tokens.push(OTHER);
        } else {
            let (token, after) = word(rest);
            tokens.push(token);
            rest = after;
        }
    }
    tokens
}

fn line_len(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

/// Behind the literal with which `text` begins.
fn after_quote(text: &str, quote: char) -> &str {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

/// A name, a number or a symbol, and what follows it.
fn word(text: &str) -> (Token, &str) {
    let len = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if len == 0 {
        let symbol = SYMBOLS.into_iter().find(|symbol| text.starts_with(symbol));
        let first = text.chars().next().map_or(0, char::len_utf8);
        return symbol
            .map_or((OTHER, &text[first..]), |symbol| (Token::Symbol(symbol), &text[symbol.len()..]));
    }
    let (word, after) = text.split_at(len);
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        return (Token::Name(word.into()), after);
    }
    let number = word.strip_prefix("0x").map_or_else(|| word.parse(), |hex| u64::from_str_radix(hex, 16));
    // A number with a point is in two parts, of which neither is a constant's.
    let fraction = after.starts_with('.');
    let octal = word.len() > 1 && word.starts_with('0') && !word.starts_with("0x");
    (number.ok().filter(|_| !fraction && !octal).map_or(OTHER, Token::Number), after)
}

/// An include of a kernel file, or a macro without parameters.
fn directive(line: &str) -> Vec<Token> {
    let line = line.trim_start_matches('#').trim();
    if let Some(name) = line.strip_prefix("include") {
        let name = name.trim().strip_prefix('"').and_then(|name| name.split_once('"'));
        return name.map(|(name, _)| Token::Include(name.into())).into_iter().collect();
    }
    let Some(rest) = line.strip_prefix("define ") else { return Vec::new() };
    match word(rest.trim_start()) {
        (Token::Name(name), text) if !text.starts_with('(') => {
            let mut tokens = vec![Token::Define(name)];
            tokens.extend(lex(text));
            tokens.push(Token::DefineEnd);
            tokens
        }
        _ => Vec::new(),
    }
}
