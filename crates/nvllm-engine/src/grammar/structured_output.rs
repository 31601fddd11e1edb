//! What an answer is to look like, as clients say it.

use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

use super::tool_calls::ToolCalls;
use super::{schema, structural_tag};
use crate::text::Tokenizer;

/// The form that an answer must have.
#[derive(Clone, Debug, PartialEq)]
pub enum StructuredOutput {
    /// Any JSON object.
    JsonObject,
    /// JSON that this schema allows.
    Json(Value),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of this grammar, in the Lark syntax of `llguidance`.
    Grammar(String),
    /// Calls of tools, and text besides where the model may choose.
    ToolCalls(ToolCalls),
    /// Free text with parts that have a form, as vLLM's `structural_tag` describes it.
    StructuralTag(Value),
}

impl StructuredOutput {
    /// Its name in requests, as vLLM has it.
    pub fn field(&self) -> &'static str {
        match self {
            Self::JsonObject => "json_object",
            Self::Json(_) => "json",
            Self::Regex(_) => "regex",
            Self::Choice(_) => "choice",
            Self::Grammar(_) => "grammar",
            Self::ToolCalls(_) => "tools",
            Self::StructuralTag(_) => "structural_tag",
        }
    }

    /// The same text for the same form, and another for every other.
    pub(super) fn key(&self) -> String {
        let text = match self {
            Self::JsonObject => String::new(),
            Self::Json(schema) => schema.to_string(),
            Self::Regex(text) | Self::Grammar(text) => text.clone(),
            Self::Choice(texts) => json!(texts).to_string(),
            Self::ToolCalls(calls) => calls.key(),
            Self::StructuralTag(tag) => tag.to_string(),
        };
        format!("{} {text}", self.field())
    }

    /// As the library takes it. Errors with what is wrong or not supported.
    pub(super) fn grammar(&self, tokenizer: &Tokenizer) -> Result<TopLevelGrammar, String> {
        match self {
            Self::JsonObject => Ok(TopLevelGrammar::from_json_schema(schema::prepared(&json!({ "type": "object" }))?)),
            Self::Json(schema) => Ok(TopLevelGrammar::from_json_schema(schema::prepared(schema)?)),
            Self::Regex(regex) => Ok(TopLevelGrammar::from_regex(without_anchors(regex))),
            Self::Choice(texts) if texts.is_empty() => Err("is empty; give at least one text".into()),
            Self::Choice(texts) => {
                // Lark has JSON's strings. One terminal: of rules no more than some thousand may
                // begin at one place.
                let texts: Vec<_> = texts.iter().map(|text| json!(text).to_string()).collect();
                Ok(TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}", texts.join(" | "))))
            }
            Self::Grammar(text) if text.trim().is_empty() => Err("is empty; give rules in Lark syntax".into()),
            Self::Grammar(text) if text.contains("::=") => {
                Err("is GBNF or EBNF (it has `::=`), which is not read; write its rules in Lark syntax, `name: ..`".into())
            }
            Self::Grammar(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
            Self::ToolCalls(calls) => calls.grammar(tokenizer),
            Self::StructuralTag(tag) => structural_tag::grammar(tag, tokenizer),
        }
    }
}

/// The whole text is matched in any case, and the library knows no anchors.
fn without_anchors(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        // `\$` is a dollar; `\\$` is a backslash and an anchor.
        Some(rest) if rest.chars().rev().take_while(|c| *c == '\\').count() % 2 == 0 => rest,
        _ => regex,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_at_the_ends_are_left_out_and_dollars_are_not() {
        for (regex, without) in
            [("^a+$", "a+"), ("a", "a"), (r"a\$", r"a\$"), (r"a\\$", r"a\\"), ("[^a]", "[^a]"), ("^$", "")]
        {
            assert_eq!(without_anchors(regex), without);
        }
    }
}
