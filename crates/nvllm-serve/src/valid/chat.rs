//! A conversation that the model's template can be asked to render.

use serde_json::{Map, Value};

use super::reasoning::{budget, template_kwargs};
use super::sampling::{MAX_TOP_LOGPROBS, ValidSampling};
use super::tools::{CHAT, Tools, Words};
use super::{turns, within};
use crate::error::ApiError;
use crate::render::Reading;
use crate::served::Served;
use crate::wire::chat::ChatFields;
use crate::wire::sampling::SamplingFields;

/// A request of `/v1/chat/completions`.
#[derive(Clone, Debug)]
pub(crate) struct ValidChat {
    pub(crate) conversation: Conversation,
    pub(crate) sampling: ValidSampling,
    /// Whether the answer begins with the last message's text.
    pub(crate) echo: bool,
    /// How the answer is read, as far as that does not depend on the prompt.
    pub(crate) reading: Reading,
}

/// What a chat template is rendered with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    /// At least one, as the template takes them.
    pub(crate) messages: Vec<Value>,
    /// Empty if there are none.
    pub(crate) tools: Vec<Value>,
    pub(crate) documents: Option<Vec<Value>>,
    pub(crate) template: Option<String>,
    pub(crate) kwargs: Map<String, Value>,
    pub(crate) add_generation_prompt: bool,
    pub(crate) continue_final_message: bool,
}

impl ValidChat {
    /// Errors with the first field that cannot be met, by a chat's names but for those of tools.
    pub(crate) fn new(
        mut chat: ChatFields,
        mut sampling: SamplingFields,
        words: Words,
        served: &Served,
    ) -> Result<Self, ApiError> {
        if chat.max_completion_tokens.is_some() {
            within("max_completion_tokens", chat.max_completion_tokens, 1, i64::MAX)?;
            sampling.max_tokens = chat.max_completion_tokens;
        }
        let mut sampling = ValidSampling::new(sampling, served)?;
        if sampling.stream.is_some() && sampling.request.prompt_logprobs.is_some() {
            return Err(ApiError::bad(
                "prompt_logprobs",
                "cannot be streamed by this route; ask for the whole answer",
            ));
        }
        if sampling.add_special_tokens == Some(true) {
            let problem = "is for prompts; the chat template writes them: leave it out";
            return Err(ApiError::bad("add_special_tokens", problem));
        }
        sampling.request.max_tokens = sampling.request.max_tokens.or(served.max_tokens);
        let top = within("top_logprobs", chat.top_logprobs, 0, MAX_TOP_LOGPROBS)?;
        if top.is_some_and(|top| top > 0) && chat.logprobs != Some(true) {
            return Err(ApiError::bad("top_logprobs", "needs logprobs: true"));
        }
        sampling.request.logprobs = (chat.logprobs == Some(true)).then(|| top.unwrap_or(0) as u16);
        sampling.request.thinking_budget = budget(&chat, served)?;
        // A model that opens its thoughts itself may do so before what the answer has to follow.
        sampling.request.may_think = served.answers.reasoning.is_some();
        let tools = tools(&mut chat, words, served)?;
        follow_tools(&mut sampling, &tools, served)?;
        let reading = reading(&chat, &tools, served);
        let shows = served.tokenizer().is_ok_and(|tokenizer| reading.format.needs_special_tokens(tokenizer));
        sampling.request.show_special_tokens |= shows;
        let echo = chat.echo.unwrap_or(false);
        Ok(Self { conversation: Conversation::with_tools(chat, &tools, served)?, sampling, echo, reading })
    }
}

/// The functions that an answer may call. Errors if this model cannot call any.
fn tools(chat: &mut ChatFields, words: Words, served: &Served) -> Result<Tools, ApiError> {
    let wire = chat.tools.take().unwrap_or_default();
    let parallel = chat.parallel_tool_calls.unwrap_or(true);
    let tools = Tools::new(wire, chat.tool_choice.take().as_ref(), parallel, words)?;
    if !tools.definitions.is_empty() {
        served.check_tools(chat.chat_template.as_deref())?;
    }
    Ok(tools)
}

/// Has the answer follow the tools that it must call, or call only as they say. Errors if it is to
/// follow something else too.
fn follow_tools(sampling: &mut ValidSampling, tools: &Tools, served: &Served) -> Result<(), ApiError> {
    let Some(format) = served.answers.tools.filter(|_| !tools.definitions.is_empty()) else { return Ok(()) };
    if let Some(asked) = &sampling.structured {
        let problem = "cannot be combined with tools; give tool_choice none, or leave one of them out";
        return Err(ApiError::bad(&*asked.param, problem));
    }
    sampling.structured = tools.structured(format);
    Ok(())
}

fn reading(chat: &ChatFields, tools: &Tools, served: &Served) -> Reading {
    Reading {
        format: served.answers.with_tools(tools.for_parser()),
        prompt_opens_thinking: false,
        include_reasoning: chat.include_reasoning.unwrap_or(true),
        parallel_calls: tools.parallel,
    }
}

impl Conversation {
    /// Errors if there are no messages, or one cannot be rendered.
    pub(crate) fn new(mut chat: ChatFields, served: &Served) -> Result<Self, ApiError> {
        let tools = tools(&mut chat, CHAT, served)?;
        Self::with_tools(chat, &tools, served)
    }

    fn with_tools(chat: ChatFields, tools: &Tools, served: &Served) -> Result<Self, ApiError> {
        let kwargs = template_kwargs(&chat, served)?;
        let wire = chat.messages.unwrap_or_default();
        if wire.is_empty() {
            return Err(ApiError::bad("messages", "is empty; give at least one message"));
        }
        let continue_final_message = chat.continue_final_message.unwrap_or(false);
        let add_generation_prompt = chat.add_generation_prompt.unwrap_or(!continue_final_message);
        if continue_final_message && add_generation_prompt {
            let problem = "goes on with the last message; give add_generation_prompt: false with it";
            return Err(ApiError::bad("continue_final_message", problem));
        }
        Ok(Self {
            messages: turns::messages(wire)?,
            tools: tools.for_template(),
            documents: chat.documents,
            template: chat.chat_template,
            kwargs,
            add_generation_prompt,
            continue_final_message,
        })
    }

    /// The last message's text.
    pub(crate) fn last_text(&self) -> &str {
        self.messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default()
    }
}
