//! What was said so far, as the prompt of the next answer.

use anyhow::{Result, bail};
use nvllm_engine::Model;
use nvllm_engine::text::{ChatInput, EncodeOptions};
use serde_json::{Map, Value, json};

use crate::output::warn;

/// Messages of a turn: a question and its answer.
const TURN: usize = 2;

/// How much of the context an answer is kept free for, if it may be as long: a quarter.
const ANSWER_SHARE: usize = 4;

/// How many tokens a turn may take.
#[derive(Clone, Copy)]
pub(super) struct TokenBudget {
    /// Of prompt and answer together.
    pub context: usize,
    /// Of an answer; none is as many as fit.
    pub max_tokens: Option<usize>,
}

impl TokenBudget {
    /// The most that a prompt takes while older turns can be left out.
    fn prompt(self) -> usize {
        let share = self.context / ANSWER_SHARE;
        self.context - self.max_tokens.map_or(share, |most| most.min(share))
    }
}

/// The next answer's prompt.
pub(super) struct Prompt {
    messages: Vec<Value>,
    text: String,
    pub ids: Vec<u32>,
    /// The oldest turns that are not in it.
    pub dropped: usize,
}

impl Prompt {
    /// Whether the answer begins inside a thought: some templates open it.
    pub(super) fn opens_thinking(&self) -> bool {
        self.text.trim_end().ends_with("<think>")
    }
}

pub(super) struct Conversation {
    system: Option<String>,
    /// None: as the template has it.
    pub thinking: Option<bool>,
    /// Turn after turn, without the system message.
    messages: Vec<Value>,
}

impl Conversation {
    pub(super) fn new(system: Option<String>, thinking: Option<bool>) -> Self {
        Self { system, thinking, messages: Vec::new() }
    }

    pub(super) fn clear(&mut self) {
        self.messages.clear();
    }

    /// Begins anew with another system message, or none.
    pub(super) fn set_system(&mut self, system: Option<String>) {
        self.system = system;
        self.clear();
    }

    pub(super) fn print(&self) {
        for message in self.system_message().iter().chain(&self.messages) {
            let text = |field: &str| message[field].as_str().unwrap_or_default();
            warn(format_args!("{}: {}", text("role"), text("content")));
        }
    }

    fn system_message(&self) -> Option<Value> {
        self.system.as_ref().map(|text| json!({ "role": "system", "content": text }))
    }

    /// The prompt for `message`, with as many of the last turns as leave room for an answer.
    /// Nothing is kept yet.
    ///
    /// Errors if the message does not even fit alone.
    pub(super) fn prompt(&self, message: &str, model: &Model, budget: TokenBudget) -> Result<Prompt> {
        let turns = self.messages.len() / TURN;
        let whole = self.without(0, message, model)?;
        if whole.ids.len() <= budget.prompt() || turns == 0 && whole.ids.len() < budget.context {
            return Ok(whole);
        }
        let alone = self.without(turns, message, model)?;
        if alone.ids.len() >= budget.context {
            bail!(
                "the message is too long: it takes {} tokens{}, and the context holds {} with the answer; shorten it, or \
                 use a larger --max-model-len (the conversation is as before; /clear forgets it)",
                alone.ids.len(),
                if self.system.is_some() { " with the system message" } else { "" },
                budget.context
            );
        }
        for dropped in 1..turns {
            let prompt = self.without(dropped, message, model)?;
            if prompt.ids.len() <= budget.prompt() {
                return Ok(prompt);
            }
        }
        Ok(alone)
    }

    fn without(&self, dropped: usize, message: &str, model: &Model) -> Result<Prompt> {
        let mut messages = self.messages[dropped * TURN..].to_vec();
        messages.push(json!({ "role": "user", "content": message }));
        let text = self.render(&messages, model)?;
        let ids = model.tokenizer()?.encode(&text, EncodeOptions::default())?;
        Ok(Prompt { messages, text, ids, dropped })
    }

    fn render(&self, messages: &[Value], model: &Model) -> Result<String> {
        let messages: Vec<Value> =
            self.system_message().into_iter().chain(messages.iter().cloned()).collect();
        let thinking = self.thinking.map(|on| ("enable_thinking".to_owned(), Value::Bool(on)));
        let kwargs: Map<String, Value> = thinking.into_iter().collect();
        let input = ChatInput {
            messages: &messages,
            add_generation_prompt: true,
            kwargs: Some(&kwargs),
            ..ChatInput::default()
        };
        Ok(model.chat_template()?.render(&input)?)
    }

    /// Makes the prompt's message and its answer the last turn.
    pub(super) fn keep(&mut self, prompt: Prompt, answer: &str) {
        let opened = prompt.opens_thinking() || answer.trim_start().starts_with("<think>");
        let mut answer = answer.to_owned();
        if opened && !answer.contains("</think>") {
            // Templates leave earlier thoughts out by looking for their end.
            answer += "\n</think>\n\n";
        }
        self.messages = prompt.messages;
        self.messages.push(json!({ "role": "assistant", "content": answer }));
    }
}
