//! The model that is served: its names, and its conventions for text and sampling.

use std::sync::Arc;

use nvllm_core::{SamplingParams, TokenId};
use nvllm_engine::Model;
use nvllm_engine::answer::{AnswerFormat, Reasoning, ToolFormat};
use nvllm_engine::text::{ChatInput, ChatTemplate, SpecialText, Tokenizer};
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::grammars::Grammars;

/// Whose defaults apply where a request says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Defaults {
    /// The model's generation_config.json, then `OpenAI`'s.
    #[default]
    Model,
    /// `OpenAI`'s.
    OpenAi,
}

/// Who runs before whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduling {
    /// Who came first; a request with a priority is refused.
    #[default]
    Fcfs,
    /// Who has the smaller priority, as requests say themselves, before who came first.
    Priority,
}

/// How thoughts are told apart from answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReasoningParser {
    /// As the model's files say.
    #[default]
    Model,
    /// They stand between `<think>` and `</think>`.
    Think,
    /// They are not: what a model writes is content.
    Off,
}

/// The field of a chat's messages and deltas that has the thoughts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReasoningField {
    /// `reasoning`, as vLLM has it.
    #[default]
    Reasoning,
    /// `reasoning_content`, as others have it and older clients read it.
    ReasoningContent,
    /// Both, each with the whole text.
    Both,
}

/// How the model is presented.
#[derive(Clone, Debug, Default)]
pub struct ServedOptions {
    /// Names that requests may use, the first of which answers carry; the model's own if empty.
    pub names: Vec<String>,
    /// Whose defaults apply where a request says nothing.
    pub defaults: Defaults,
    /// Whether a request that spells out exactly temperature 1, top_p 1, top_k -1, min_p 0 and
    /// repetition_penalty 1 counts as one that says nothing: some routers fill these in.
    pub neutral_is_absent: bool,
    /// Whether the name of a special token in a message's content is that token, as with others.
    pub parse_special_tokens: bool,
    /// Whether requests may say who runs before whom.
    pub scheduling: Scheduling,
    /// Arguments of the chat template where a request gives none.
    pub chat_template_kwargs: Map<String, Value>,
    /// A template in place of the model's own.
    pub chat_template: Option<String>,
    /// How thoughts are told apart from answers.
    pub reasoning_parser: ReasoningParser,
    /// The field that has them.
    pub reasoning_field: ReasoningField,
    /// How the model writes calls of tools; as its files say if not given.
    pub tool_call_parser: Option<ToolFormat>,
    /// Further names of the metrics.
    pub metrics_alias: crate::metrics::Alias,
    /// Whether the engine was loaded for embeddings.
    pub embeddings: bool,
}

/// A model as the routes see it: everything but its weights.
pub(crate) struct Served {
    pub(crate) names: Vec<String>,
    /// The model's directory or hub id.
    pub(crate) root: String,
    pub(crate) vocab_size: usize,
    /// Numbers of an embedding; `None` if there are none here.
    pub(crate) embedding_size: Option<usize>,
    /// Sampling where a request says nothing.
    pub(crate) sampling: SamplingParams,
    /// Tokens of an answer where a request says nothing.
    pub(crate) max_tokens: Option<usize>,
    /// Texts at which the model's authors let it end.
    pub(crate) stop_strings: Vec<String>,
    pub(crate) eos: Vec<TokenId>,
    pub(crate) special_text: SpecialText,
    pub(crate) neutral_is_absent: bool,
    pub(crate) scheduling: Scheduling,
    pub(crate) chat_template_kwargs: Map<String, Value>,
    pub(crate) grammars: Grammars,
    /// How the model's answers are read.
    pub(crate) answers: AnswerFormat,
    pub(crate) reasoning_field: ReasoningField,
    /// Whether the default template prints tools.
    prints_tools: bool,
    tokenizer: Option<Arc<Tokenizer>>,
    template: Option<ChatTemplate>,
    /// Why there is no tokenizer or no template.
    missing: String,
}

impl Served {
    /// Errors if a chat template that was given cannot be read.
    pub(crate) fn new(model: &Model, options: ServedOptions) -> nvllm_engine::Result<Self> {
        let names = if options.names.is_empty() { vec![short_name(&model.name)] } else { options.names };
        let own = options.defaults == Defaults::Model;
        let open_ai = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let sampling = if own { model.sampling() } else { open_ai };
        let sampling = SamplingParams { stop_tokens: Vec::new(), ..sampling };
        let template = match options.chat_template {
            Some(text) => Some(replaced(model.chat_template.clone(), &text)?),
            None => model.chat_template.clone(),
        };
        let format = AnswerFormat::of(model);
        let reasoning = match options.reasoning_parser {
            ReasoningParser::Model => format.reasoning,
            ReasoningParser::Think => Some(Reasoning::THINK),
            ReasoningParser::Off => None,
        };
        let tools = options.tool_call_parser.or(format.tools);
        Ok(Self {
            answers: AnswerFormat { reasoning, tools, ..AnswerFormat::default() },
            reasoning_field: options.reasoning_field,
            prints_tools: template.as_ref().is_none_or(|template| prints_tools(template, None)),
            names,
            root: model.name.clone(),
            vocab_size: model.spec.vocab_size,
            embedding_size: model.spec.hidden_size().filter(|_| options.embeddings),
            sampling,
            max_tokens: model.generation.max_new_tokens.filter(|_| own),
            stop_strings: if own { model.generation.stop_strings.clone() } else { Vec::new() },
            eos: model.eos.clone(),
            special_text: if options.parse_special_tokens {
                SpecialText::Parse
            } else {
                SpecialText::Literal
            },
            neutral_is_absent: options.neutral_is_absent,
            scheduling: options.scheduling,
            chat_template_kwargs: options.chat_template_kwargs,
            grammars: Grammars::new(model),
            tokenizer: model.tokenizer().ok().cloned(),
            template,
            missing: model.chat_template().err().map(|e| e.to_string()).unwrap_or_default(),
        })
    }

    /// The name that answers carry.
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Errors if a request asks for another model.
    pub(crate) fn check_name(&self, asked: Option<&str>) -> Result<(), ApiError> {
        match asked {
            Some(name) if !self.names.iter().any(|known| known == name) => {
                let names = self.names.join(", ");
                let message = format!("model {name:?} is not served here; this server has {names}");
                Err(ApiError::new(axum::http::StatusCode::NOT_FOUND, message).about("model"))
            }
            _ => Ok(()),
        }
    }

    /// Errors if the model has no tokenizer.
    pub(crate) fn tokenizer(&self) -> Result<&Arc<Tokenizer>, ApiError> {
        self.tokenizer.as_ref().ok_or_else(|| ApiError::bad_request("model", &self.missing))
    }

    /// Errors if the model's template says nothing of tools, or nobody knows how it calls them.
    pub(crate) fn check_tools(&self, template_name: Option<&str>) -> Result<(), ApiError> {
        let template = self.template()?;
        let prints = match template_name {
            None => self.prints_tools,
            Some(_) => prints_tools(template, template_name),
        };
        if !prints {
            let problem =
                "cannot be told to this model: its chat template does not print them; leave them out";
            return Err(ApiError::bad("tools", problem));
        }
        if self.answers.tools.is_none() {
            let names: Vec<_> = ToolFormat::ALL.iter().map(|format| format.name()).collect();
            let problem = format!(
                "cannot be used: how this model writes calls is not known; start the server with --tool-call-parser, one of {}",
                names.join(", ")
            );
            return Err(ApiError::bad("tools", problem));
        }
        Ok(())
    }

    /// Errors if the model has no tokenizer or no template.
    pub(crate) fn template(&self) -> Result<&ChatTemplate, ApiError> {
        self.template.as_ref().ok_or_else(|| ApiError::bad_request("messages", &self.missing))
    }
}

/// Whether a template prints tools; true too where it refuses the conversation that is tried.
fn prints_tools(template: &ChatTemplate, name: Option<&str>) -> bool {
    const NAME: &str = "nvllm_probe";
    let messages = [json!({ "role": "user", "content": "Hi" })];
    let function =
        json!({ "name": NAME, "description": "", "parameters": { "type": "object", "properties": {} } });
    let tools = [json!({ "type": "function", "function": function })];
    let input = ChatInput {
        messages: &messages,
        tools: Some(&tools),
        add_generation_prompt: true,
        template: name,
        ..ChatInput::default()
    };
    template.render(&input).map_or(true, |prompt| prompt.contains(NAME))
}

/// A template in place of the model's own.
fn replaced(own: Option<ChatTemplate>, text: &str) -> nvllm_engine::Result<ChatTemplate> {
    let origin = "--chat-template";
    if let Some(own) = own {
        return own.with_default(text, origin);
    }
    let made = ChatTemplate::from_parts(Some((text.as_bytes(), std::path::Path::new(origin))), None)?;
    made.ok_or_else(|| nvllm_engine::EngineError::ChatTemplate {
        origin: origin.into(),
        problem: "is empty".into(),
    })
}

/// The last part of a model's path, without `.gguf`; any other name as it is.
fn short_name(name: &str) -> String {
    let path = std::path::Path::new(name);
    let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let last = match () {
        () if path.is_dir() => path.file_name(),
        () if path.is_file() && is_gguf => path.file_stem(),
        () if path.is_file() => path.file_name(),
        () => None,
    };
    last.map_or_else(|| name.to_owned(), |last| last.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::create_dir(path("dir.gguf")).unwrap();
        std::fs::write(path("tiny-Q8_0.gguf"), "").unwrap();
        assert_eq!(short_name(&path("dir.gguf")), "dir.gguf");
        assert_eq!(short_name(&path("tiny-Q8_0.gguf")), "tiny-Q8_0");
        std::fs::write(path("9f2c"), "").unwrap();
        assert_eq!(short_name(&path("9f2c")), "9f2c");
        assert_eq!(short_name("org/name"), "org/name");
        assert_eq!(short_name("nvllm-tiny"), "nvllm-tiny");
    }
}
