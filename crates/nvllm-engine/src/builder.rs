//! How an engine is started: its two threads, and the model on one of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nvllm_core::Backend;

use crate::backlog::Backlog;
use crate::engine_loop::{Command, EngineLoop};
use crate::shared::Shared;
use crate::text_stage::{Message, TextStage};
use crate::{Engine, EngineError, LoadOptions, LoadProgress, Model, Result};

type BackendFactory = Box<dyn FnOnce() -> Result<Box<dyn Backend>> + Send>;

impl Engine {
    /// An engine for `model` on the backend that `backend` makes, on the thread that will own it.
    pub fn builder<B>(model: Arc<Model>, backend: B) -> EngineBuilder
    where
        B: FnOnce() -> Result<Box<dyn Backend>> + Send + 'static,
    {
        EngineBuilder::new(model, Box::new(backend))
    }
}

/// An engine in the making: [`Engine::builder`].
#[must_use = "nothing is loaded before `start` or `spawn`"]
pub struct EngineBuilder {
    model: Arc<Model>,
    backend: BackendFactory,
    options: LoadOptions,
    progress: Box<dyn Fn(LoadProgress) + Send>,
}

impl EngineBuilder {
    fn new(model: Arc<Model>, backend: BackendFactory) -> Self {
        Self { model, backend, options: LoadOptions::default(), progress: Box::new(|_| {}) }
    }

    /// How the model is loaded and how long the queue may be; the defaults if not given.
    pub fn options(mut self, options: LoadOptions) -> Self {
        self.options = options;
        self
    }

    /// Is called on the device thread after each tensor that was read.
    pub fn progress(mut self, progress: impl Fn(LoadProgress) + Send + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// Loads the model and waits for it.
    ///
    /// Errors if the backend cannot be made, the model does not fit the options or the device, or a
    /// thread cannot be started.
    pub fn start(self) -> Result<Engine> {
        let engine = self.spawn()?;
        engine.wait_until_loaded()?;
        Ok(engine)
    }

    /// Begins to load the model, and returns at once with an engine that is
    /// [`Loading`](crate::Health::Loading).
    ///
    /// Errors if a thread cannot be started, or the options let no request into the queue. What
    /// goes wrong later is in [`Engine::wait_until_loaded`] and [`Engine::health`].
    pub fn spawn(self) -> Result<Engine> {
        let shared = Arc::new(Shared::new(Backlog::new(&self.options)?));
        let (commands, inbox) = unbounded();
        let (stage, messages) = unbounded();
        let (failed, loading) = bounded(1);
        let text_stage = TextStage::new(commands.clone(), Arc::clone(&shared));
        let text = spawn_thread("nvllm-text", move || text_stage.run(&messages))?;
        // From here on dropping the engine ends the thread.
        let mut engine = Engine { commands, stage, shared, loading, threads: vec![text] };
        let (stage, shared) = (engine.stage.clone(), Arc::clone(&engine.shared));
        let device = move || self.device_thread(&inbox, failed, stage, shared);
        engine.threads.push(spawn_thread("nvllm-device", device)?);
        Ok(engine)
    }

    /// Loads and serves on the thread that owns the device. Whatever ends it is noted before
    /// `inbox` or `failed` closes, so that whoever sees that finds the reason.
    fn device_thread(
        self,
        inbox: &Receiver<Command>,
        failed: Sender<EngineError>,
        stage: Sender<Message>,
        shared: Arc<Shared>,
    ) {
        let Self { model, backend, options, progress } = self;
        let (to_stage, noted) = (stage.clone(), Arc::clone(&shared));
        let progress = |read: LoadProgress| {
            noted.note_progress(read);
            progress(read);
        };
        let load = || EngineLoop::load(backend, &model, &options, &progress, stage, shared);
        let mut engine_loop = match catch_unwind(AssertUnwindSafe(load)) {
            Ok(Ok(engine_loop)) => engine_loop,
            Ok(Err(error)) => {
                noted.failure.note(error.to_string());
                // Nobody waits for it if sending fails.
                let _ = failed.send(error);
                return;
            }
            Err(payload) => return noted.failure.note_panic("device", &*payload),
        };
        drop(failed);
        let served = catch_unwind(AssertUnwindSafe(|| engine_loop.run(inbox)));
        if let Err(payload) = served {
            noted.failure.note_panic("device", &*payload);
            let _ = to_stage.send(Message::Failed);
        }
        engine_loop.release();
    }
}

fn spawn_thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(|e| EngineError::Stopped { reason: format!("a thread cannot be started ({e})") })
}
