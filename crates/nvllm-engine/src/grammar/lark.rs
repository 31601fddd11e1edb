//! Grammars in the library's Lark syntax, put together from rules.

use std::fmt::Write as _;

use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

use super::schema;
use crate::text::Tokenizer;

/// Any text.
const TEXT: &str = "TEXT: /(.|\\n)*/\n";

/// A grammar that is being written. Rules are called by the names that they are given here.
pub(super) struct Lark<'a> {
    tokenizer: &'a Tokenizer,
    rules: String,
    num_rules: usize,
}

impl<'a> Lark<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, rules: TEXT.into(), num_rules: 0 }
    }

    /// The grammar of texts that `body` is the form of.
    pub(super) fn finish(self, body: &str) -> TopLevelGrammar {
        TopLevelGrammar::from_lark(format!("start: {body}\n{}", self.rules))
    }

    /// A rule's name for `body`.
    pub(super) fn rule(&mut self, body: &str) -> String {
        self.named("", body)
    }

    fn named(&mut self, options: &str, body: &str) -> String {
        let name = format!("r{}", self.num_rules);
        self.num_rules += 1;
        // Writing into a string cannot fail.
        let _ = writeln!(self.rules, "{name}{options}: {body}");
        name
    }

    /// One of these forms; nothing if there are none.
    pub(super) fn any_of(&mut self, forms: &[String]) -> String {
        match forms {
            [] => "\"\"".into(),
            [one] => one.clone(),
            _ => self.rule(&forms.join(" | ")),
        }
    }

    /// JSON that a schema allows. Errors with what is wrong with it.
    pub(super) fn json(&mut self, schema: &Value) -> Result<String, String> {
        let schema = schema::prepared(schema)?;
        Ok(self.rule(&format!("%json {schema}")))
    }

    /// A text that this regular expression matches as a whole.
    pub(super) fn regex(&mut self, regex: &str) -> String {
        if regex.is_empty() {
            return "\"\"".into();
        }
        let name = format!("R{}", self.num_rules);
        self.num_rules += 1;
        let _ = writeln!(self.rules, "{name}: /{}/", with_escaped_slashes(regex));
        name
    }

    /// This text, names of special tokens in it as these tokens.
    pub(super) fn literal(&self, text: &str) -> String {
        let mut forms = Vec::new();
        let mut rest = text;
        while let Some((at, len, id)) = self.first_special(rest) {
            if at > 0 {
                forms.push(json!(&rest[..at]).to_string());
            }
            forms.push(format!("<[{id}]>"));
            rest = &rest[at + len..];
        }
        if !rest.is_empty() || forms.is_empty() {
            forms.push(json!(rest).to_string());
        }
        forms.join(" ")
    }

    /// Any text up to `mark`, and that mark.
    pub(super) fn text_until(&mut self, mark: &str) -> Result<String, String> {
        match self.first_special(mark) {
            // No text holds a special token.
            Some((0, len, _)) if len == mark.len() => {
                let mark = self.literal(mark);
                Ok(self.rule(&format!("TEXT {mark}")))
            }
            Some(_) => {
                Err(format!("has the special token of {mark:?} beside text; use it alone or leave it out"))
            }
            None => Ok(self.named("[lazy]", &format!("TEXT {}", json!(mark)))),
        }
    }

    /// Where the name of a special token stands first, its length and its id.
    fn first_special(&self, text: &str) -> Option<(usize, usize, u32)> {
        let special = self.tokenizer.added_tokens().iter().filter(|token| token.special);
        let found =
            special.filter_map(|token| Some((text.find(&token.content)?, token.content.len(), token.id)));
        found.filter(|(_, len, _)| *len > 0).min_by_key(|(at, len, _)| (*at, std::cmp::Reverse(*len)))
    }
}

/// The expression between slashes, which end it where they are not escaped.
fn with_escaped_slashes(regex: &str) -> String {
    let (mut body, mut is_escaped) = (String::new(), false);
    for c in regex.chars() {
        if c == '/' && !is_escaped {
            body.push('\\');
        }
        body.push(c);
        is_escaped = c == '\\' && !is_escaped;
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_is_escaped_once() {
        for (regex, body) in [("a/b", r"a\/b"), (r"a\/b", r"a\/b"), (r"a\\/b", r"a\\\/b"), ("", "")] {
            assert_eq!(with_escaped_slashes(regex), body, "{regex}");
        }
    }
}
