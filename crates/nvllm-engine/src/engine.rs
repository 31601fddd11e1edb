//! The handle that programs hold: start an engine, submit requests, read their events.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use nvllm_core::{Backend, BackendInfo, Limits, MemoryReport, RequestLimits};
use nvllm_sched::Stats;

use crate::device::{self, Command};
use crate::failure::Failure;
use crate::{EngineError, Event, LoadOptions, Model, Request, Result};

/// What was loaded, and under which limits.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// The backend's word on itself, after loading.
    pub backend: BackendInfo,
    /// The limits in force.
    pub limits: Limits,
    /// What the backend takes from one request.
    pub request_limits: RequestLimits,
    /// What the backend holds.
    pub memory: MemoryReport,
}

/// How far loading has come, in bytes of weights.
#[derive(Clone, Copy, Debug)]
pub struct LoadProgress {
    /// Read so far.
    pub done: usize,
    /// To read.
    pub total: usize,
}

/// A loaded model with a thread of its own. Dropping it ends all requests and joins the thread.
pub struct Engine {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    failure: Failure,
    info: EngineInfo,
}

impl Engine {
    /// Loads `model` on the backend that `backend` makes, on the thread that will own it.
    ///
    /// Errors if the backend cannot be made, or the model does not fit the options or the device.
    pub fn start<B, P>(backend: B, model: Arc<Model>, options: LoadOptions, progress: P) -> Result<Self>
    where
        B: FnOnce() -> Result<Box<dyn Backend>> + Send + 'static,
        P: Fn(LoadProgress) + Send + 'static,
    {
        let (commands, inbox) = unbounded();
        let (ready, loaded) = unbounded();
        let failure = Failure::default();
        let on_thread = failure.clone();
        let body = move || match device::Device::load(backend, &model, &options, &progress, on_thread.clone())
        {
            Ok(mut device) => {
                let info = device.info();
                if ready.send(Ok(info)).is_ok() {
                    // The device and the inbox outlive the note: whoever sees their channels close
                    // finds the reason.
                    let served = catch_unwind(AssertUnwindSafe(|| device.run(&inbox)));
                    served.unwrap_or_else(|payload| on_thread.note_panic(&*payload));
                }
            }
            // Nobody listens any more if sending fails: then nobody wants to know.
            Err(e) => drop(ready.send(Err(e))),
        };
        let stopped = |reason: String| EngineError::Stopped { reason };
        let thread = std::thread::Builder::new()
            .name("nvllm-device".into())
            .spawn(body)
            .map_err(|e| stopped(format!("its thread cannot be started ({e})")))?;
        let info = loaded.recv().map_err(|_| stopped("loading panicked".into()))??;
        Ok(Self { commands, thread: Some(thread), failure, info })
    }

    /// What was loaded.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// Queues a request.
    ///
    /// Errors if it could never run: an empty or too long prompt, parameters out of range, lists
    /// longer than the backend takes, text options without a tokenizer; or if the device has failed for
    /// good, with its reason. The stream ends with [`Event::Finished`].
    pub fn submit(&self, request: Request) -> Result<RequestStream> {
        self.failure.check()?;
        // Here and not in the step: a step that the backend refuses fails every request in it.
        self.info.request_limits.check(&request.sampling)?;
        let (events, stream) = unbounded();
        self.ask(|reply| Command::Submit { request: Box::new(request), events, reply })??;
        Ok(RequestStream { events: stream, failure: self.failure.clone() })
    }

    /// Counts of the scheduler.
    pub fn stats(&self) -> Result<Stats> {
        self.ask(|reply| Command::Stats { reply })
    }

    /// The backend's read bandwidth in bytes a second, measured between steps by the first call; `None` if it cannot tell.
    pub fn measure_read_bandwidth(&self) -> Result<Option<f64>> {
        self.ask(|reply| Command::Bandwidth { reply })
    }

    /// Sends a command and waits for its reply.
    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T> {
        let (reply, answer) = unbounded();
        let gone = || self.failure.stopped("its thread has ended");
        self.commands.send(command(reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The events of one request, as they come. Dropping it aborts the request.
pub struct RequestStream {
    events: Receiver<Event>,
    failure: Failure,
}

impl RequestStream {
    /// The next event, waiting for it. [`Event::Finished`] is the last.
    ///
    /// Errors if the engine ended before the request did.
    pub fn next_event(&mut self) -> Result<Event> {
        self.events.recv().map_err(|_| self.broken_off())
    }

    /// The next event, waiting `timeout` at most; `None` if none came in that time.
    ///
    /// Errors if the engine ended before the request did.
    pub fn next_event_timeout(&mut self, timeout: Duration) -> Result<Option<Event>> {
        match self.events.recv_timeout(timeout) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.broken_off()),
        }
    }

    fn broken_off(&self) -> EngineError {
        self.failure.stopped("the request's events broke off")
    }
}
