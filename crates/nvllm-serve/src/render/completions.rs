//! `/v1/completions`: events to chunks, and to a whole answer.

use nvllm_core::{TokenId, TokenLogprobs};
use nvllm_engine::{Event, Finished};
use serde_json::Value;

use super::{Frames, Head, StreamRenderer, UsageCount};
use crate::ending::Ending;
use crate::error::ApiError;
use crate::scores::TokenNames;
use crate::submission::{ChoiceEvent, Submission};
use crate::valid::sampling::ValidStream;
use crate::wire::completions::{Completion, CompletionChoice, CompletionLogprobs};

/// What is fixed for the answers to some prompts.
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own")]
pub(crate) struct CompletionRenderer {
    pub(crate) head: Head,
    /// `None` if the model has no tokenizer; then there is no text.
    pub(crate) names: Option<TokenNames>,
    pub(crate) eos: Vec<TokenId>,
    pub(crate) prompts: Vec<Vec<TokenId>>,
    /// Whether answers begin with their prompts.
    pub(crate) echo: bool,
    /// The prompts as they came, where they came as text.
    pub(crate) texts: Vec<Option<String>>,
    /// Whether answers have log-probabilities.
    pub(crate) logprobs: bool,
    /// Whether the prompt's are given apart from the answer's.
    pub(crate) prompt_logprobs: bool,
    pub(crate) return_token_ids: bool,
    pub(crate) usage: UsageCount,
    /// Choices of each prompt.
    n: usize,
    choices: Vec<Progress>,
    /// Scores of each prompt's tokens from the second on.
    rows: Vec<Vec<TokenLogprobs>>,
}

/// How far a choice has come.
#[derive(Clone, Copy, Default)]
struct Progress {
    begun: bool,
    /// Characters of its tokens.
    offset: usize,
}

impl CompletionRenderer {
    pub(crate) fn new(head: Head, prompts: Vec<Vec<TokenId>>, n: usize) -> Self {
        Self {
            head,
            names: None,
            eos: Vec::new(),
            echo: false,
            texts: Vec::new(),
            logprobs: false,
            prompt_logprobs: false,
            return_token_ids: false,
            usage: UsageCount::new(prompts.iter().map(Vec::len), n),
            n,
            choices: vec![Progress::default(); prompts.len() * n],
            rows: vec![Vec::new(); prompts.len()],
            prompts,
        }
    }

    /// What an event adds to its choice. Errors if the choice failed.
    fn pieces(&mut self, news: ChoiceEvent) -> Result<Vec<CompletionChoice>, ApiError> {
        self.usage.count(&news);
        let index = news.choice;
        let mut pieces = Vec::new();
        match news.event {
            Event::PromptRow { logprobs, .. } => {
                if let Some(rows) = self.rows.get_mut(index / self.n) {
                    rows.extend(logprobs);
                }
            }
            // Not asked for here.
            Event::Embedding { .. } => {}
            Event::Token { token, text, logprobs, .. } => {
                pieces.extend(self.begin(index));
                let scores = logprobs.filter(|_| self.logprobs);
                if !text.is_empty() || scores.is_some() || self.return_token_ids {
                    pieces.push(CompletionChoice {
                        text,
                        index,
                        logprobs: scores.map(|scores| self.scored(index, &[token], &[Some(&scores)])),
                        token_ids: self.return_token_ids.then(|| vec![token.0]),
                        ..CompletionChoice::default()
                    });
                }
            }
            Event::Finished(finished) => {
                pieces.extend(self.begin(index));
                pieces.push(self.finish(index, finished)?);
            }
        }
        Ok(pieces)
    }

    /// A choice's first piece, if it says anything: its prompt, and what was asked for of it.
    fn begin(&mut self, index: usize) -> Option<CompletionChoice> {
        let progress = self.choices.get_mut(index).filter(|progress| !progress.begun)?;
        progress.begun = true;
        let prompt = self.prompts.get(index / self.n)?.clone();
        let rows = self.rows.get(index / self.n).cloned().unwrap_or_default();
        let ids: Vec<u32> = prompt.iter().map(|token| token.0).collect();
        let text = self.echo.then(|| self.prompt_text(index / self.n, &ids));
        let scores: Vec<_> = [None].into_iter().chain(rows.iter().map(Some)).take(prompt.len()).collect();
        let logprobs = (self.echo && self.logprobs).then(|| self.scored(index, &prompt, &scores));
        let shown = self.prompt_logprobs.then(|| self.shown_rows(&prompt, &rows));
        let says = self.echo || self.return_token_ids || self.prompt_logprobs;
        says.then(|| CompletionChoice {
            text: text.unwrap_or_default(),
            index,
            logprobs,
            prompt_logprobs: shown,
            prompt_token_ids: self.return_token_ids.then_some(ids),
            ..CompletionChoice::default()
        })
    }

    fn prompt_text(&self, prompt: usize, ids: &[u32]) -> String {
        let came = self.texts.get(prompt).cloned().flatten();
        let decode = || self.names.as_ref().map(|names| names.tokenizer.decode(ids, false));
        came.or_else(decode).unwrap_or_default()
    }

    fn shown_rows(&self, prompt: &[TokenId], rows: &[TokenLogprobs]) -> Vec<Value> {
        let Some(names) = &self.names else { return Vec::new() };
        let rows = prompt.iter().skip(1).zip(rows).map(|(token, scores)| names.prompt_row(*token, scores));
        [Value::Null].into_iter().chain(rows).collect()
    }

    /// Tokens with their scores, after those that the choice had so far.
    fn scored(
        &mut self,
        index: usize,
        tokens: &[TokenId],
        scores: &[Option<&TokenLogprobs>],
    ) -> CompletionLogprobs {
        let mut logprobs = CompletionLogprobs::default();
        let (Some(names), Some(progress)) = (&self.names, self.choices.get_mut(index)) else {
            return logprobs;
        };
        for (token, scores) in tokens.iter().zip(scores) {
            progress.offset = names.push(&mut logprobs, *token, *scores, progress.offset);
        }
        logprobs
    }

    fn finish(&self, index: usize, finished: Finished) -> Result<CompletionChoice, ApiError> {
        let Ending { finish_reason, stop_reason } = Ending::of(&finished, &self.eos)?;
        let finish_reason = Some(finish_reason);
        Ok(CompletionChoice {
            text: finished.text,
            index,
            finish_reason,
            stop_reason,
            ..CompletionChoice::default()
        })
    }

    fn completion(&self, choices: Vec<CompletionChoice>, with_usage: bool) -> Completion<'_> {
        Completion {
            id: &self.head.id,
            object: "text_completion",
            created: self.head.created,
            model: &self.head.model,
            choices,
            usage: with_usage.then(|| self.usage.usage()),
        }
    }

    /// The whole answer, as `reply` makes it. Errors if a choice fails.
    pub(crate) async fn whole<R>(
        mut self,
        mut submission: Submission,
        reply: impl FnOnce(&Completion<'_>) -> R,
    ) -> Result<R, ApiError> {
        let empty = |index| CompletionChoice { index, ..CompletionChoice::default() };
        let mut choices: Vec<_> = (0..self.choices.len()).map(empty).collect();
        while let Some(news) = submission.next().await {
            for piece in self.pieces(news)? {
                if let Some(choice) = choices.get_mut(piece.index) {
                    choice.push(piece);
                }
            }
        }
        Ok(reply(&self.completion(choices, true)))
    }
}

impl CompletionChoice {
    fn push(&mut self, piece: Self) {
        self.text += &piece.text;
        if let Some(new) = piece.logprobs {
            let logprobs = self.logprobs.get_or_insert_default();
            logprobs.tokens.extend(new.tokens);
            logprobs.token_logprobs.extend(new.token_logprobs);
            logprobs.top_logprobs.extend(new.top_logprobs);
            logprobs.text_offset.extend(new.text_offset);
        }
        if let Some(new) = piece.token_ids {
            self.token_ids.get_or_insert_default().extend(new);
        }
        self.prompt_logprobs = self.prompt_logprobs.take().or(piece.prompt_logprobs);
        self.prompt_token_ids = self.prompt_token_ids.take().or(piece.prompt_token_ids);
        self.finish_reason = self.finish_reason.or(piece.finish_reason);
        self.stop_reason = self.stop_reason.take().or(piece.stop_reason);
    }
}

/// The answers as a stream.
pub(crate) struct CompletionStream {
    pub(crate) renderer: CompletionRenderer,
    pub(crate) options: ValidStream,
}

impl StreamRenderer for CompletionStream {
    fn news(&mut self, news: ChoiceEvent, frames: &mut Frames) -> Result<(), ApiError> {
        for piece in self.renderer.pieces(news)? {
            frames.data(&self.renderer.completion(vec![piece], self.options.continuous_usage));
        }
        Ok(())
    }

    fn end(&mut self, frames: &mut Frames) {
        if self.options.usage {
            frames.data(&self.renderer.completion(Vec::new(), true));
        }
        frames.done();
    }
}
