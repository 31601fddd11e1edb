//! What was said so far, as the prompt of the next answer.

use anyhow::{Result, bail};
use nvllm_core::TokenId;
use nvllm_engine::Model;
use nvllm_engine::answer::prompt_opens_thinking;
use nvllm_engine::text::{ChatInput, SpecialText};
use serde_json::{Map, Value, json};

use crate::output::warn;

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
    pub ids: Vec<TokenId>,
    /// Whether the answer begins inside a thought: some templates open it.
    pub opens_thinking: bool,
    /// The oldest turns that are not in it.
    pub dropped: usize,
}

pub(super) struct Conversation {
    system: Option<String>,
    /// None: as the template has it.
    pub thinking: Option<bool>,
    /// What may be called, as the template shows it.
    tools: Option<Vec<Value>>,
    /// Turn after turn, without the system message. A turn begins with a user's message.
    messages: Vec<Value>,
}

impl Conversation {
    pub(super) fn new(system: Option<String>, thinking: Option<bool>, tools: Option<Vec<Value>>) -> Self {
        Self { system, thinking, tools, messages: Vec::new() }
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
        for message in self.all() {
            let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
            let mut line = format!("{}: {}", text(&message, "role"), text(&message, "content"));
            for call in message["tool_calls"].as_array().into_iter().flatten() {
                let function = &call["function"];
                line += &format!("[call] {} {}", text(function, "name"), text(function, "arguments"));
            }
            warn(format_args!("{line}"));
        }
    }

    /// All messages, the system's first.
    pub(super) fn all(&self) -> Vec<Value> {
        let system = self.system.as_ref().map(|text| json!({ "role": "system", "content": text }));
        system.into_iter().chain(self.messages.iter().cloned()).collect()
    }

    /// Puts these messages in the place of all; a system message that comes first is the system's.
    pub(super) fn replace(&mut self, mut messages: Vec<Value>) {
        self.system = None;
        if let Some(first) = messages.first().filter(|m| m["role"] == "system" || m["role"] == "developer") {
            self.system = first["content"].as_str().map(str::to_owned);
            messages.remove(0);
        }
        self.messages = messages;
    }

    /// Calls that were made.
    pub(super) fn num_calls(&self) -> usize {
        self.messages.iter().filter_map(|message| Some(message.get("tool_calls")?.as_array()?.len())).sum()
    }

    /// Takes back the last turn: its message, and all of it, to be [put back](Self::put_back).
    pub(super) fn take_back(&mut self) -> Option<(String, Vec<Value>)> {
        let at = self.messages.iter().rposition(|message| message["role"] == "user")?;
        let text = self.messages[at]["content"].as_str()?.to_owned();
        Some((text, self.messages.split_off(at)))
    }

    /// Puts back a turn that was taken back, where no other took its place.
    pub(super) fn put_back(&mut self, turn: Vec<Value>, num_messages: usize) {
        if self.messages.len() == num_messages {
            self.messages.extend(turn);
        }
    }

    /// Messages, the system's aside.
    pub(super) fn num_messages(&self) -> usize {
        self.messages.len()
    }

    /// The prompt for `new` messages, with as many of the last turns as leave room for an answer.
    /// Nothing is kept yet.
    ///
    /// Errors if they do not even fit alone.
    pub(super) fn prompt(&self, new: &[Value], model: &Model, budget: TokenBudget) -> Result<Prompt> {
        let starts = self.starts(new);
        let turns = starts.len() - 1;
        let whole = self.starting_at(0, 0, new, model)?;
        if whole.ids.len() <= budget.prompt() || turns == 0 && whole.ids.len() < budget.context {
            return Ok(whole);
        }
        let alone = self.starting_at(starts[turns], turns, new, model)?;
        if alone.ids.len() >= budget.context {
            bail!(
                "the message is too long: it takes {} tokens{}, and the context holds {} with the answer; shorten it, or \
                 use a larger --max-model-len (the conversation is as before; /clear forgets it)",
                alone.ids.len(),
                if self.system.is_some() { " with the system message" } else { "" },
                budget.context
            );
        }
        for (dropped, start) in starts.iter().enumerate().take(turns).skip(1) {
            let prompt = self.starting_at(*start, dropped, new, model)?;
            if prompt.ids.len() <= budget.prompt() {
                return Ok(prompt);
            }
        }
        Ok(alone)
    }

    /// Where turns begin, the one of the `new` messages included: results of calls go on with the
    /// last one.
    fn starts(&self, new: &[Value]) -> Vec<usize> {
        let begins = |message: &Value| message["role"] == "user";
        let all = self.messages.iter().chain(new).enumerate();
        let mut starts: Vec<usize> = all.filter(|(_, message)| begins(message)).map(|(at, _)| at).collect();
        if starts.first() != Some(&0) {
            starts.insert(0, 0);
        }
        starts
    }

    /// The prompt of the messages from one on.
    fn starting_at(&self, start: usize, dropped: usize, new: &[Value], model: &Model) -> Result<Prompt> {
        let messages: Vec<Value> = self.messages[start..].iter().chain(new).cloned().collect();
        let system = self.system.as_ref().map(|text| json!({ "role": "system", "content": text }));
        let all: Vec<Value> = system.into_iter().chain(messages.iter().cloned()).collect();
        let thinking = self.thinking.map(|on| ("enable_thinking".to_owned(), Value::Bool(on)));
        let kwargs: Map<String, Value> = thinking.into_iter().collect();
        let input = ChatInput {
            messages: &all,
            tools: self.tools.as_deref(),
            add_generation_prompt: true,
            kwargs: Some(&kwargs),
            ..ChatInput::default()
        };
        let tokenizer = model.tokenizer()?;
        let ids = model.chat_template()?.encode(&input, false, SpecialText::Parse, tokenizer)?;
        let ids: Vec<TokenId> = ids.into_iter().map(TokenId).collect();
        let opens_thinking = prompt_opens_thinking(tokenizer, &ids);
        Ok(Prompt { messages, ids, opens_thinking, dropped })
    }

    /// Makes the prompt's messages and their answer the last turn.
    pub(super) fn keep(&mut self, prompt: Prompt, answer: Value) {
        self.messages = prompt.messages;
        self.messages.push(answer);
    }
}

/// An answer without calls as a message, with its thoughts as they are.
pub(super) fn plain_answer(opens_thinking: bool, answer: &str) -> Value {
    let opened = opens_thinking || answer.trim_start().starts_with("<think>");
    let mut answer = answer.to_owned();
    if opened && !answer.contains("</think>") {
        // Templates leave earlier thoughts out by looking for their end.
        answer += "\n</think>\n\n";
    }
    json!({ "role": "assistant", "content": answer })
}
