//! Running the requests, alone or in company.

use nvllm_core::TokenId;

use super::answer::{Answer, num_tokens};
use super::cases::{CHOICES, Cases};
use crate::{Engine, EngineError, FinishReason, Generated, Request, RequestStream, Result};

/// In which company the requests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Submission {
    /// One after another.
    Alone,
    /// One after another, and then all of them again.
    Twice,
    /// One after another, then again with a stop token that comes early.
    Stopped,
    /// All at once.
    Together,
    /// All at once, in another order.
    Shuffled,
    /// Among unrelated requests that come and go, in another order.
    Companions,
    /// Those that are run as several choices of a request, all at once.
    Choices,
}

/// An engine and the requests.
pub(super) struct Runner<'a> {
    pub engine: &'a Engine,
    pub cases: &'a Cases,
    pub baseline: &'a Baseline,
}

impl Runner<'_> {
    /// Runs the requests.
    ///
    /// Errors if one is refused or fails.
    pub(super) fn run(&self, submission: Submission) -> Result<Vec<Answer>> {
        let mut ran = Vec::new();
        let all: Vec<usize> = (0..self.cases.requests.len()).collect();
        match submission {
            Submission::Alone => self.alone(&all, &mut ran)?,
            Submission::Twice => {
                self.alone(&all, &mut ran)?;
                self.alone(&all, &mut ran)?;
            }
            Submission::Stopped => {
                self.alone(&all, &mut ran)?;
                self.stopped(&mut ran)?;
            }
            Submission::Together => self.together(&all, 1, &mut ran)?,
            Submission::Shuffled => self.together(&self.cases.shuffled, 1, &mut ran)?,
            Submission::Companions => self.among_companions(&mut ran)?,
            Submission::Choices => {
                let chosen: Vec<usize> = all.into_iter().filter(|&i| Cases::has_choices(i)).collect();
                self.together(&chosen, CHOICES, &mut ran)?;
            }
        }
        Ok(ran)
    }

    fn alone(&self, requests: &[usize], ran: &mut Vec<Answer>) -> Result<()> {
        requests.iter().try_for_each(|&request| self.together(&[request], 1, ran))
    }

    fn together(&self, requests: &[usize], n: usize, ran: &mut Vec<Answer>) -> Result<()> {
        let submit = |&i: &usize| {
            let request = Request { n: Some(n), ..self.cases.requests[i].clone() };
            Ok((i, self.engine.stream(request)?))
        };
        let streams = requests.iter().map(submit).collect::<Result<Vec<_>>>()?;
        streams.into_iter().try_for_each(|(i, stream)| finish(i, n, stream, ran))
    }

    /// Each request alone, with a stop token that its answer has half way: with steps in flight it
    /// is found late. What follows a grammar runs as it is.
    fn stopped(&self, ran: &mut Vec<Answer>) -> Result<()> {
        for (i, request) in self.cases.requests.iter().enumerate() {
            let (mut request, stop) = (request.clone(), self.baseline.stops[i]);
            request.sampling.stop_tokens.extend(stop.map(|(token, _)| token));
            let generated = self.engine.generate(request)?;
            ran.push(Answer { request: i, choice: 0, stopped_at: stop.map(|(_, len)| len), generated });
        }
        Ok(())
    }

    /// Each request has a companion before it, and one of two a second that is four times as
    /// long and is aborted once it has begun. While requests end others come.
    fn among_companions(&self, ran: &mut Vec<Answer>) -> Result<()> {
        let (mut streams, mut companions, mut long) = (Vec::new(), Vec::new(), Vec::new());
        let mut others = self.cases.companions.iter().cycle().cloned();
        let mut come = |companions: &mut Vec<RequestStream>| {
            companions.extend(others.next().map(|other| self.engine.stream(other)).transpose()?);
            Ok::<(), EngineError>(())
        };
        for (at, &request) in self.cases.shuffled.iter().enumerate() {
            come(&mut companions)?;
            if at % 2 == 0 {
                let max_tokens = self.cases.requests[request].max_tokens.map(|num| 4 * num);
                let prompt = vec![TokenId(0)];
                long.push(self.engine.stream(Request { prompt, max_tokens, ..Request::default() })?);
            }
            streams.push((request, self.engine.stream(self.cases.requests[request].clone())?));
        }
        for (request, stream) in streams {
            if let Some(mut begun) = long.pop() {
                // Dropped, and so aborted, after its first token.
                begun.next();
            }
            come(&mut companions)?;
            finish(request, 1, stream, ran)?;
        }
        companions.into_iter().try_for_each(|companion| {
            let id = companion.id();
            let mut choices = Generated::choices(id, 1);
            companion.for_each(|event| Generated::push(&mut choices, event));
            choices.into_iter().try_for_each(|choice| choice.checked().map(drop))
        })
    }
}

/// Reads a request to its end.
fn finish(request: usize, n: usize, stream: RequestStream, ran: &mut Vec<Answer>) -> Result<()> {
    let mut choices = Generated::choices(stream.id(), n);
    for event in stream {
        Generated::push(&mut choices, event);
    }
    for (choice, generated) in choices.into_iter().enumerate() {
        let generated = generated.checked()?;
        let reason = generated.finished.reason;
        if reason != FinishReason::Length {
            let reason = format!("request {request} ended early ({reason:?})");
            return Err(EngineError::Generation { reason });
        }
        ran.push(Answer { request, choice, stopped_at: None, generated });
    }
    Ok(())
}

/// What every request gives alone.
pub(super) struct Baseline {
    /// By request and choice.
    answers: Vec<Vec<Generated>>,
    /// Where a run with stop tokens stops each request, and how long its answer then is.
    stops: Vec<Option<(TokenId, usize)>>,
    /// Steps that the first choices took.
    pub num_steps: u64,
}

impl Baseline {
    /// Runs every request alone, and those that are run as several choices once for each choice.
    ///
    /// Errors if one is refused or fails.
    pub(super) fn make(engine: &Engine, cases: &Cases) -> Result<Self> {
        let before = engine.stats().num_steps;
        let mut answers = Vec::with_capacity(cases.requests.len());
        for request in &cases.requests {
            answers.push(vec![engine.generate(request.clone())?]);
        }
        let num_steps = engine.stats().num_steps - before;
        let stop = |(request, choices): (&Request, &Vec<Generated>)| stop(request, choices.first()?);
        let stops = cases.requests.iter().zip(&answers).map(stop).collect();
        for (i, request) in cases.requests.iter().enumerate().filter(|(i, _)| Cases::has_choices(*i)) {
            for choice in 1..CHOICES as u32 {
                // The prompt's scores are the first choice's.
                let mut request = Request { prompt_logprobs: None, ..request.clone() };
                request.sampling.choice += choice;
                answers[i].push(engine.generate(request)?);
            }
        }
        Ok(Self { answers, stops, num_steps })
    }

    /// What a choice of a request gives.
    pub(super) fn of(&self, request: usize, choice: usize) -> Option<&Generated> {
        self.answers.get(request)?.get(choice)
    }

    /// Steps that all requests take alone, one in flight, and then once more up to their stop
    /// tokens.
    pub(super) fn steps_with_stops(&self) -> u64 {
        let all = |i: usize| self.of(i, 0).map_or(0, |answer| answer.tokens.len());
        let saved = |i: usize| self.stops[i].map_or(0, |(_, len)| all(i) - len);
        let saved: usize = (0..self.answers.len()).map(saved).sum();
        2 * self.num_steps - saved as u64
    }

    /// Tokens that a run of all requests is compared with.
    pub(super) fn num_tokens(&self) -> usize {
        self.answers.iter().filter_map(|choices| choices.first()).map(num_tokens).sum()
    }
}

/// A token that an answer has half way, and how long the answer is up to its first occurrence.
/// `None` under a grammar: it allows a stop token where the answer may end, so the answer would be
/// another.
fn stop(request: &Request, answer: &Generated) -> Option<(TokenId, usize)> {
    let tokens = if request.grammar.is_none() { &answer.tokens[..] } else { &[] };
    let stop = *tokens.get(tokens.len() / 2)?;
    let first = tokens.iter().position(|token| *token == stop)?;
    Some((stop, first + 1))
}
