//! The thread that owns the device: plan, submit, collect, commit, report.

mod source;
mod text;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use nvllm_core::{Backend, Executable, HostTensor, Limits, SeqId, StepId, Tensor, Ticket, TokenId};
use nvllm_sched::{FinishReason, NewSequence, SchedConfig, Scheduler, SeqEvent, Stats};

use crate::failure::Failure;
use crate::{
    EngineError, EngineInfo, Event, Finished, LoadOptions, LoadPlan, LoadProgress, Model, Request, Result,
};
use source::Reading;
use text::TextStream;

/// What the handle asks of the thread.
pub(crate) enum Command {
    /// Queue a request.
    Submit { request: Box<Request>, events: Sender<Event>, reply: Sender<Result<()>> },
    /// Report counts.
    Stats { reply: Sender<Stats> },
    /// Measure the backend's read bandwidth, in bytes a second.
    Bandwidth { reply: Sender<Option<f64>> },
    /// End.
    Stop,
}

/// A request that runs.
struct Client {
    events: Sender<Event>,
    text: Option<TextStream>,
    stop_tokens: Vec<TokenId>,
    include_stop: bool,
    prompt_tokens: usize,
    output_tokens: usize,
    submitted: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

/// The device thread's state.
pub(crate) struct Device {
    model: Arc<Model>,
    backend: Box<dyn Backend>,
    exe: Box<dyn Executable>,
    limits: Limits,
    sched: Scheduler,
    in_flight: VecDeque<Ticket>,
    clients: HashMap<SeqId, Client>,
    read_bandwidth: Option<f64>,
    failure: Failure,
}

impl Device {
    pub(crate) fn load<B>(
        backend: B,
        model: &Arc<Model>,
        options: &LoadOptions,
        progress: &dyn Fn(LoadProgress),
        failure: Failure,
    ) -> Result<Self>
    where
        B: FnOnce() -> Result<Box<dyn Backend>>,
    {
        let backend = backend()?;
        let plan = LoadPlan::new(options, model, backend.as_ref())?;
        plan.check()?;
        let limits = plan.limits;
        let source = Reading::new(model, progress)?;
        let mut exe = backend.plan_and_load(&model.spec, &source, &limits).map_err(|e| options.named(e))?;
        let cache = exe.kv_cache();
        let num_blocks = (0..model.spec.kv.len()).map(|group| cache.geometry(group).num_blocks).collect();
        let sched = Scheduler::new(SchedConfig::new(&limits, num_blocks, model.spec.max_positions))?;
        Ok(Self {
            model: Arc::clone(model),
            backend,
            exe,
            limits,
            sched,
            in_flight: VecDeque::new(),
            clients: HashMap::new(),
            read_bandwidth: None,
            failure,
        })
    }

    pub(crate) fn info(&self) -> EngineInfo {
        EngineInfo {
            backend: self.backend.info(),
            limits: self.limits.clone(),
            request_limits: self.exe.request_limits(),
            memory: self.exe.memory(),
        }
    }

    /// Serves until told to stop or until the handle is gone.
    pub(crate) fn run(&mut self, inbox: &Receiver<Command>) {
        loop {
            // Idle: wait. Busy: take what has come.
            let mut command =
                if self.sched.is_idle() { inbox.recv().map(Some) } else { Ok(inbox.try_recv().ok()) };
            while let Ok(Some(next)) = command {
                match next {
                    Command::Submit { request, events, reply } => {
                        let _ = reply.send(self.submit(*request, events));
                    }
                    Command::Stats { reply } => drop(reply.send(self.sched.stats())),
                    Command::Bandwidth { reply } => drop(reply.send(self.read_bandwidth())),
                    Command::Stop => return,
                }
                command = Ok(inbox.try_recv().ok());
            }
            if command.is_err() {
                return;
            }
            self.step();
        }
    }

    /// Measured once: a conversation does not wait for it after every answer.
    fn read_bandwidth(&mut self) -> Option<f64> {
        if self.read_bandwidth.is_none() {
            self.read_bandwidth = self.backend.measure_read_bandwidth();
        }
        self.read_bandwidth
    }

    fn submit(&mut self, request: Request, events: Sender<Event>) -> Result<()> {
        request.sampling.check(self.model.spec.vocab_size)?;
        let text = TextStream::new(self.model.tokenizer.as_ref(), &request)?;
        let client = Client {
            events,
            text,
            stop_tokens: request.sampling.stop_tokens.clone(),
            include_stop: request.include_stop,
            prompt_tokens: request.prompt.len(),
            output_tokens: 0,
            submitted: Instant::now(),
            first_token: None,
            last_token: None,
        };
        let vocab_size = self.model.spec.vocab_size;
        if let Some(&token) = request.prompt.iter().find(|t| t.index() >= vocab_size) {
            return Err(EngineError::PromptToken { token, vocab_size });
        }
        let seq = self.sched.add(NewSequence {
            prompt: request.prompt.into(),
            sampling: Arc::new(request.sampling),
            max_tokens: request.max_tokens,
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
            logits: request.logits,
            priority: request.priority,
            positions: request.positions.map(Into::into),
        })?;
        self.clients.insert(seq, client);
        Ok(())
    }

    /// Launches what can be launched, then takes in the oldest step.
    fn step(&mut self) {
        while let Some(step) = self.sched.plan() {
            match self.exe.submit(&step) {
                Ok(ticket) => self.in_flight.push_back(ticket),
                Err(e) => self.fail(step.id, &e.to_string()),
            }
        }
        let Some(ticket) = self.in_flight.pop_front() else { return };
        let step = ticket.0;
        match self.exe.collect(ticket) {
            Ok(output) => match self.sched.commit(step, output) {
                Ok(events) => self.report(events, None),
                Err(e) => self.fail(step, &e.to_string()),
            },
            Err(e) => self.fail(step, &e.to_string()),
        }
    }

    /// Ends every sequence of a step that failed.
    fn fail(&mut self, step: StepId, error: &str) {
        // Before anyone hears of it: who then submits again is to be refused.
        if let Some(reason) = self.exe.failure() {
            self.failure.note(reason);
        }
        match self.sched.fail(step) {
            Ok(events) => self.report(events, Some(error)),
            // A fault of the scheduler: whose step it was is not known, and nobody may wait for ever.
            Err(e) => {
                let error = format!("{error}; {e}");
                let all: Vec<SeqId> = self.clients.keys().copied().collect();
                for seq in all {
                    self.end(seq, FinishReason::Failed, Some(&error));
                }
            }
        }
    }

    /// Hands the scheduler's news to the clients; ends sequences whose client is gone or whose text holds a stop string.
    fn report(&mut self, events: Vec<SeqEvent>, error: Option<&str>) {
        for event in events {
            let seq = event.seq();
            let Some(client) = self.clients.get_mut(&seq) else { continue };
            let news = match event {
                SeqEvent::Finished { reason, .. } => {
                    self.finish(seq, reason, error);
                    continue;
                }
                SeqEvent::PromptRow { index, logprobs, logits, .. } => {
                    to_host(logits).map(|logits| client.send(Event::PromptRow { index, logprobs, logits }))
                }
                SeqEvent::Token { token, logprobs, logits, .. } => client.token(token, logprobs, logits),
            };
            match news {
                Ok(None) => {}
                Ok(Some(reason)) => self.end(seq, reason, error),
                Err(e) => {
                    self.end(seq, FinishReason::Failed, Some(&format!("its logits cannot be read: {e}")));
                }
            }
        }
    }

    /// Ends a sequence that the scheduler has not ended.
    fn end(&mut self, seq: SeqId, reason: FinishReason, error: Option<&str>) {
        if self.sched.finish(seq, reason).is_some() {
            self.finish(seq, reason, error);
        }
    }

    fn finish(&mut self, seq: SeqId, reason: FinishReason, error: Option<&str>) {
        if let Some(client) = self.clients.remove(&seq) {
            client.finish(reason, error);
        }
    }
}

impl Client {
    /// Sends an event; a client that is gone ends its sequence.
    fn send(&self, event: Event) -> Option<FinishReason> {
        self.events.send(event).err().map(|_| FinishReason::Aborted)
    }

    fn token(
        &mut self,
        token: TokenId,
        logprobs: Option<nvllm_core::TokenLogprobs>,
        logits: Option<Box<dyn Tensor>>,
    ) -> nvllm_core::Result<Option<FinishReason>> {
        let logits = to_host(logits)?;
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        self.output_tokens += 1;
        let mut text = String::new();
        let mut stopped = false;
        // A stop token ends the text before itself, unless it is wanted.
        if self.include_stop || !self.stop_tokens.contains(&token) {
            stopped = self.text.as_mut().is_some_and(|stream| stream.push(token, &mut text));
        }
        let gone = self.send(Event::Token { token, text, logprobs, logits, at: now });
        Ok(gone.or(stopped.then_some(FinishReason::StopString)))
    }

    fn finish(mut self, reason: FinishReason, error: Option<&str>) {
        let text = self.text.take().map(TextStream::finish).unwrap_or_default();
        let decode_time = self.first_token.zip(self.last_token).map(|(a, b)| b - a).unwrap_or_default();
        let finished = Finished {
            reason,
            error: error.filter(|_| reason == FinishReason::Failed).map(String::from),
            text,
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            time_to_first_token: self.first_token.map(|at| at - self.submitted),
            decode_time,
        };
        self.send(Event::Finished(finished));
    }
}

fn to_host(tensor: Option<Box<dyn Tensor>>) -> nvllm_core::Result<Option<HostTensor>> {
    tensor.map(|tensor| tensor.to_host()).transpose()
}
