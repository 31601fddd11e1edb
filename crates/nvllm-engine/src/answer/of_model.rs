//! What a model's files say about its answers.

use super::{AnswerFormat, Reasoning, ToolFormat};
use crate::Model;
use crate::text::{ChatTemplate, Tokenizer};

impl AnswerFormat {
    /// The format that a model's chat template and vocabulary show: thoughts where `<think>` and
    /// `</think>` are tokens or in the template, calls as the template writes them.
    pub fn of(model: &Model) -> Self {
        let template = model.chat_template.as_ref();
        let has = |mark: &str| template.is_some_and(|template| template.mentions(mark));
        let is_token =
            |mark: &str| model.tokenizer().is_ok_and(|tokenizer| tokenizer.token_id(mark).is_some());
        let thinks = ["<think>", "</think>"].iter().all(|mark| is_token(mark) || has(mark));
        Self {
            reasoning: thinks.then_some(Reasoning::THINK),
            tools: template.and_then(tool_format),
            tool_list: [].into(),
        }
    }

    /// Whether a mark of this format is a special token, so that a request must have
    /// [`show_special_tokens`](crate::Request::show_special_tokens) for the parser to find it.
    pub fn needs_special_tokens(&self, tokenizer: &Tokenizer) -> bool {
        self.marks().any(|mark| tokenizer.token_id(mark).is_some_and(|id| tokenizer.is_special(id)))
    }
}

/// The format that a template writes calls in.
fn tool_format(template: &ChatTemplate) -> Option<ToolFormat> {
    let has = |mark| template.mentions(mark);
    if has("[TOOL_CALLS]") {
        Some(ToolFormat::Mistral)
    } else if has("<function=") && has("<parameter=") {
        Some(ToolFormat::Qwen3Coder)
    } else if has("<tool_call>") {
        Some(ToolFormat::Hermes)
    } else if has("<|python_tag|>") || (has("\"parameters\": ") && has("<|start_header_id|>")) {
        Some(ToolFormat::Llama3Json)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::hub::ModelFiles;

    #[test]
    fn templates_show_how_calls_are_written() {
        for (source, format) in [
            ("<tool_call>\\n{\"name\": ", Some(ToolFormat::Hermes)),
            ("<tool_call>\\n<function=example>\\n<parameter=p>", Some(ToolFormat::Qwen3Coder)),
            ("{{ '[TOOL_CALLS] [' }}", Some(ToolFormat::Mistral)),
            ("<|start_header_id|>{{ '\"parameters\": ' }}", Some(ToolFormat::Llama3Json)),
            ("<|im_start|>{{ messages }}", None),
        ] {
            let template = ChatTemplate::from_parts(Some((source.as_bytes(), Path::new("t.jinja"))), None);
            assert_eq!(tool_format(&template.unwrap().unwrap()), format, "{source}");
        }
    }

    #[test]
    fn the_demo_thinks_and_calls_as_qwen3() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nvllm-tiny");
        let model = Model::open(&ModelFiles::in_directory(&dir).unwrap()).unwrap();
        let format = AnswerFormat::of(&model);
        assert_eq!(
            (format.reasoning.clone(), format.tools),
            (Some(Reasoning::THINK), Some(ToolFormat::Hermes))
        );
        assert!(!format.needs_special_tokens(model.tokenizer().unwrap()), "its marks are text");
        let special = AnswerFormat {
            reasoning: Some(Reasoning { begin: "<|im_start|>".into(), end: "<|im_end|>".into() }),
            ..AnswerFormat::default()
        };
        assert!(special.needs_special_tokens(model.tokenizer().unwrap()));
    }
}
