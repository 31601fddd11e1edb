//! Rust source as a flat list of tokens with lines, each knowing whether it is test code.

use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An identifier or keyword.
    Ident(String),
    /// One punctuation character.
    Punct(char),
    /// A literal as written.
    Literal(String),
    /// `(`, `[` or `{`.
    Open(char),
    /// `)`, `]` or `}`.
    Close(char),
}

/// One token.
#[derive(Clone, Debug)]
pub(super) struct Token {
    /// What it is.
    pub kind: Kind,
    /// Line, from 1.
    pub line: usize,
    /// Whether it belongs to an item under `#[cfg(test)]` or `#[test]`, or to a file of tests.
    pub in_test: bool,
}

impl Token {
    /// Whether it is the identifier `name`.
    pub(super) fn is(&self, name: &str) -> bool {
        matches!(&self.kind, Kind::Ident(ident) if ident == name)
    }

    /// Whether it is the punctuation `c`.
    pub(super) fn is_punct(&self, c: char) -> bool {
        self.kind == Kind::Punct(c)
    }

    /// The identifier, if it is one.
    pub(super) fn ident(&self) -> Option<&str> {
        match &self.kind {
            Kind::Ident(ident) => Some(ident),
            _ => None,
        }
    }
}

/// Reads `text`. Errors with line and reason if its brackets or literals are not closed.
pub(super) fn lex(text: &str) -> Result<Vec<Token>, (usize, String)> {
    let stream = TokenStream::from_str(text).map_err(|e| (e.span().start().line, e.to_string()))?;
    let mut out = Vec::new();
    flatten(stream, false, &mut out);
    Ok(out)
}

/// Appends `stream`. An item is test code from its attribute to its end: the first `;` or braced
/// group.
fn flatten(stream: TokenStream, in_test: bool, out: &mut Vec<Token>) {
    let mut item_is_test = false;
    let mut after_hash = false;
    for tree in stream {
        let ends_item = match &tree {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Punct(punct) => punct.as_char() == ';',
            _ => false,
        };
        if let TokenTree::Group(group) = &tree
            && after_hash
            && group.delimiter() == Delimiter::Bracket
        {
            item_is_test |= is_test_attribute(group.stream());
        }
        after_hash = matches!(&tree, TokenTree::Punct(punct) if punct.as_char() == '#');
        push(tree, in_test || item_is_test, out);
        item_is_test &= !ends_item;
    }
}

fn push(tree: TokenTree, in_test: bool, out: &mut Vec<Token>) {
    let mut token = |kind, line| out.push(Token { kind, line, in_test });
    match tree {
        TokenTree::Ident(ident) => token(Kind::Ident(ident.to_string()), ident.span().start().line),
        TokenTree::Punct(punct) => token(Kind::Punct(punct.as_char()), punct.span().start().line),
        TokenTree::Literal(literal) => {
            token(Kind::Literal(literal.to_string()), literal.span().start().line);
        }
        TokenTree::Group(group) => {
            let (open, close) = match group.delimiter() {
                Delimiter::Parenthesis => ('(', ')'),
                Delimiter::Bracket => ('[', ']'),
                Delimiter::Brace => ('{', '}'),
                Delimiter::None => return flatten(group.stream(), in_test, out),
            };
            token(Kind::Open(open), group.span_open().start().line);
            flatten(group.stream(), in_test, out);
            let line = group.span_close().start().line;
            out.push(Token { kind: Kind::Close(close), line, in_test });
        }
    }
}

/// `test`, `cfg(test)`, `cfg(all(test, ..))`; not `cfg(not(test))`.
fn is_test_attribute(attribute: TokenStream) -> bool {
    let mut trees = attribute.into_iter();
    match (trees.next(), trees.next()) {
        (Some(TokenTree::Ident(ident)), None) => ident == "test",
        (Some(TokenTree::Ident(ident)), Some(TokenTree::Group(group))) if ident == "cfg" => {
            is_test_condition(group.stream())
        }
        _ => false,
    }
}

/// Whether the inside of a `cfg(..)` holds in tests only.
pub(super) fn is_test_condition(condition: TokenStream) -> bool {
    let mut tokens = Vec::new();
    flatten(condition, false, &mut tokens);
    tokens.iter().any(|t| t.is("test")) && !tokens.iter().any(|t| t.is("not") || t.is("any"))
}

/// Names of modules declared as `mod name;` in test code.
pub(super) fn test_modules(tokens: &[Token]) -> impl Iterator<Item = &str> {
    tokens
        .windows(3)
        .filter(|w| w[0].in_test && w[0].is("mod") && w[2].is_punct(';'))
        .filter_map(|w| w[1].ident())
}

/// Index of the token that closes the group opened at `open`.
pub(super) fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Open(_) => depth += 1,
            Kind::Close(_) => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_idents(text: &str) -> Vec<String> {
        let tokens = lex(text).unwrap();
        tokens.iter().filter(|t| t.in_test).filter_map(|t| t.ident().map(str::to_owned)).collect()
    }

    #[test]
    fn test_code_begins_and_ends_with_its_item() {
        let text =
            "fn a() {} #[cfg(test)] #[allow(x)] mod m { fn b() {} } fn c() {} #[cfg(not(test))] fn d() {}";
        let found = test_idents(text);
        assert!(found.contains(&"b".into()), "{found:?}");
        assert!(!["a", "c", "d"].iter().any(|name| found.contains(&(*name).into())), "{found:?}");
        assert!(test_idents("#[test]\nfn t() { x }\nfn u() {}").contains(&"x".into()));
        assert!(test_idents("#[cfg(test)]\nuse a::b;\nfn u() {}").iter().all(|name| name != "u"));
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        let tokens = lex("/// unsafe {}\n// unsafe\nconst A: &str = \"unsafe\";\n").unwrap();
        assert!(!tokens.iter().any(|t| t.is("unsafe")));
        assert_eq!(tokens.iter().find(|t| t.is("const")).unwrap().line, 3);
    }

    #[test]
    fn an_open_bracket_is_an_error() {
        assert!(lex("fn f() {").is_err());
    }
}
