//! Answers that call tools, in the form that a model was trained on.

mod forms;
mod json_forms;
mod qwen3_coder;
mod wanted;

use llguidance::api::TopLevelGrammar;
use serde_json::json;

use super::lark::Lark;
use crate::answer::{Tool, ToolFormat};
use crate::text::Tokenizer;
use forms::Forms;
pub use wanted::{ToolCalls, ToolChoice};

impl ToolCalls {
    /// The same text for the same calls.
    pub(super) fn key(&self) -> String {
        let tools = self.tools.iter().map(|tool| json!([tool.name, tool.parameters, tool.strict]));
        let tools: Vec<_> = tools.collect();
        let choice = match &self.choice {
            ToolChoice::Auto => json!(0),
            ToolChoice::Required => json!(1),
            ToolChoice::Named(name) => json!(name),
        };
        json!([self.format.name(), choice, self.parallel, tools]).to_string()
    }

    pub(super) fn grammar(&self, tokenizer: &Tokenizer) -> Result<TopLevelGrammar, String> {
        let mut tools: Vec<&Tool> = self.tools.iter().collect();
        if let ToolChoice::Named(name) = &self.choice {
            tools.retain(|tool| tool.name == *name);
            if tools.is_empty() {
                let names: Vec<_> = self.tools.iter().map(|tool| tool.name.as_str()).collect();
                return Err(format!("names the tool {name:?}, which is none of {}", names.join(", ")));
            }
        }
        if tools.is_empty() {
            return Err("has no tools to choose from; give at least one".into());
        }
        let mut lark = Lark::new(tokenizer);
        let forms = match self.format {
            ToolFormat::Hermes => json_forms::hermes(self, &tools, &mut lark),
            ToolFormat::Llama3Json => json_forms::llama3_json(self, &tools, &mut lark),
            ToolFormat::Mistral => json_forms::mistral(self, &tools, &mut lark, tokenizer),
            ToolFormat::Qwen3Coder => qwen3_coder::forms(self, &tools, &mut lark),
        }?;
        let body = self.body(&forms, &mut lark)?;
        Ok(lark.finish(&body))
    }

    /// The whole answer.
    fn body(&self, forms: &Forms, lark: &mut Lark<'_>) -> Result<String, String> {
        let call = lark.any_of(&forms.calls);
        let texts = [forms.mark, forms.begin, forms.between, forms.end];
        let [mark, begin, between, end] =
            texts.map(|text| if text.is_empty() { String::new() } else { lark.literal(text) });
        let several = self.parallel && !matches!(self.choice, ToolChoice::Named(_));
        let more = if several { lark.rule(&format!("({between} {call})*")) } else { String::new() };
        if self.choice != ToolChoice::Auto {
            return Ok(format!("{mark} {begin} {call} {more} {end}"));
        }
        if self.format == ToolFormat::Llama3Json {
            // Calls have no mark before them: an answer that begins as one is one.
            let text = lark.regex(r"(\s*[^\s{](.|\n)*)?");
            return Ok(format!("{text} | {call} {more}"));
        }
        let text = lark.text_until(forms.mark)?;
        Ok(if several && self.format != ToolFormat::Mistral {
            // There may be text between two calls, so each begins with the mark.
            format!("({text} {begin} {call} {end})* TEXT")
        } else {
            format!("TEXT | {text} {begin} {call} {more} {end}")
        })
    }
}
