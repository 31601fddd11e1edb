//! The handle that programs hold: start an engine, submit requests, read their events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::engine_loop::Command;
use crate::shared::Shared;
use crate::stream::Subscription;
use crate::text_stage::{Client, Message};
use crate::validator::Checked;
use crate::{
    AsyncRequestStream, Embedding, EngineError, EngineInfo, EngineStats, EventSink, Generated, Health,
    Request, RequestId, RequestStream, Result, Tenant,
};

/// The next request's id. Of the process and not of an engine, so that an id names one request in
/// its logs.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A model that is loaded or being loaded, with a thread for its device and one for its text.
///
/// It may be shared by threads and by async tasks: no call but
/// [`wait_until_loaded`](Self::wait_until_loaded), [`wait_until_idle`](Self::wait_until_idle),
/// [`measure_read_bandwidth`](Self::measure_read_bandwidth), [`generate`](Self::generate) and
/// [`embed`](Self::embed) waits for anything. Dropping it ends all requests with
/// [`FinishReason::Aborted`](crate::FinishReason::Aborted) and joins the threads, which takes as
/// long as the step that runs, or as loading.
pub struct Engine {
    pub(crate) commands: Sender<Command>,
    pub(crate) stage: Sender<Message>,
    pub(crate) shared: Arc<Shared>,
    /// Why loading failed, for the first who waits; closed when loading has ended.
    pub(crate) loading: Receiver<EngineError>,
    pub(crate) threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Waits until requests are taken.
    ///
    /// Errors if loading failed: the first caller gets the error itself, later ones
    /// [`EngineError::Stopped`] with its message.
    pub fn wait_until_loaded(&self) -> Result<()> {
        match self.loading.recv() {
            Ok(error) => Err(error),
            Err(_) => self.shared.loaded().map(drop),
        }
    }

    /// What the engine is doing.
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// How far loading has come, from 0 to 1; 1 once requests are taken.
    pub fn load_progress(&self) -> f32 {
        self.shared.load_progress()
    }

    /// What was loaded.
    ///
    /// Errors while the model is being loaded, or if that failed.
    pub fn info(&self) -> Result<&EngineInfo> {
        match self.shared.loaded.get() {
            Some(loaded) => Ok(&loaded.info),
            None => Err(self.shared.failure.check().err().unwrap_or(EngineError::Loading)),
        }
    }

    /// Queues a request, whose events go to `sink` from the engine's text thread.
    ///
    /// Returns at once: what can be wrong with a request is checked here, and nothing waits for a
    /// step. Once a request is taken, its sink gets an [`Event::Finished`](crate::Event::Finished),
    /// unless it says [`Gone`](crate::Gone) before.
    ///
    /// # Errors
    /// [`EngineError::Loading`], [`EngineError::Draining`], [`EngineError::QueueFull`],
    /// [`EngineError::Stopped`] if the engine has failed; or if the request could never run: an
    /// empty or too long prompt, parameters out of range, lists longer than the backend takes, stop
    /// strings without a tokenizer, more choices than slots, an unknown tenant, a deadline that has
    /// passed. The message names the field and its range. No other request
    /// notices.
    pub fn submit(&self, request: Request, sink: Box<dyn EventSink>) -> Result<RequestId> {
        let submitted = Instant::now();
        let embed = request.embed;
        let loaded = self.shared.loaded()?;
        let tenant = self.shared.backlog.tenant(request.tenant.as_deref())?;
        let Checked { new, n, masks, texts } = loaded.validator.check(request, tenant, submitted)?;
        let prompt_len = new.prompt.len();
        let queued = self.shared.backlog.enter(new.tenant, prompt_len)?;
        let id = RequestId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        // The client first: the device thread may have news of it before the next line. If it is
        // gone, the text stage finds the reason, which was noted before, and tells the client.
        let client = Client::new(sink, texts, prompt_len, embed, submitted);
        let _ = self.stage.send(Message::Open(id, Box::new(client)));
        let _ = self.commands.send(Command::Submit { id, new: Box::new(new), n, masks, queued });
        Ok(id)
    }

    /// Queues a request, and returns its events as an iterator that waits for each. Dropping it
    /// aborts the request.
    ///
    /// Errors as [`submit`](Self::submit) does.
    pub fn stream(&self, request: Request) -> Result<RequestStream> {
        let (sink, events) = unbounded();
        let n = request.num_choices();
        let id = self.submit(request, Box::new(sink))?;
        Ok(RequestStream::new(events, self.subscription(id, n)))
    }

    /// As [`stream`](Self::stream), for async tasks: on any runtime, as nothing here needs one.
    ///
    /// Errors as [`submit`](Self::submit) does, and returns as soon.
    ///
    /// ```
    /// use nvllm_engine::{Engine, Event, Request, Result};
    ///
    /// async fn text_of(engine: &Engine, request: Request) -> Result<String> {
    ///     let mut stream = engine.stream_async(request)?;
    ///     let mut text = String::new();
    ///     while let Some(event) = stream.next().await {
    ///         match event {
    ///             Event::Token { text: piece, .. } => text += &piece,
    ///             Event::Finished(finished) => text += &finished.text,
    ///             Event::PromptRow { .. } | Event::Embedding { .. } => {}
    ///         }
    ///     }
    ///     Ok(text)
    /// }
    /// # let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nvllm-tiny");
    /// # let model = nvllm_engine::Model::open(&nvllm_engine::hub::ModelFiles::in_directory(&dir)?)?;
    /// # let backend = || Ok(Box::new(nvllm_core::Reference::default()) as Box<dyn nvllm_core::Backend>);
    /// # let options = nvllm_engine::LoadOptions { max_model_len: Some(64), ..Default::default() };
    /// # let engine = Engine::builder(model.into(), backend).options(options).start()?;
    /// # let request = Request { prompt: vec![nvllm_core::TokenId(5)], max_tokens: Some(4), ..Request::default() };
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # runtime.block_on(async {
    /// assert_eq!(text_of(&engine, request.clone()).await?, engine.generate_async(request).await?.text);
    /// # Result::<()>::Ok(())
    /// # })?;
    /// # Result::<()>::Ok(())
    /// ```
    pub fn stream_async(&self, request: Request) -> Result<AsyncRequestStream> {
        let (sink, events) = tokio::sync::mpsc::unbounded_channel();
        let n = request.num_choices();
        let id = self.submit(request, Box::new(sink))?;
        Ok(AsyncRequestStream::new(events, self.subscription(id, n)))
    }

    /// Runs a request of one choice to its end.
    ///
    /// Errors as [`submit`](Self::submit) does, if more choices are asked for, or if the request
    /// fails while it runs.
    pub fn generate(&self, request: Request) -> Result<Generated> {
        request.check_one_choice()?;
        self.generate_choices(request)?.swap_remove(0).checked()
    }

    /// Runs all choices of a request to their ends, each of which may have failed.
    ///
    /// Errors as [`submit`](Self::submit) does.
    pub fn generate_choices(&self, request: Request) -> Result<Vec<Generated>> {
        let n = request.num_choices();
        let stream = self.stream(request)?;
        let mut choices = Generated::choices(stream.id(), n);
        stream.for_each(|event| Generated::push(&mut choices, event));
        Ok(choices)
    }

    /// As [`generate`](Self::generate), for async tasks. Dropping the future aborts the request.
    pub async fn generate_async(&self, request: Request) -> Result<Generated> {
        request.check_one_choice()?;
        self.generate_choices_async(request).await?.swap_remove(0).checked()
    }

    /// As [`generate_choices`](Self::generate_choices), for async tasks. Dropping the future aborts
    /// the request.
    pub async fn generate_choices_async(&self, request: Request) -> Result<Vec<Generated>> {
        let n = request.num_choices();
        let mut stream = self.stream_async(request)?;
        let mut choices = Generated::choices(stream.id(), n);
        while let Some(event) = stream.next().await {
            Generated::push(&mut choices, event);
        }
        Ok(choices)
    }

    /// The embedding of a request's prompt. Waits for it.
    ///
    /// Errors as [`submit`](Self::submit) does, if the model was not loaded for
    /// [`embeddings`](crate::LoadOptions::embeddings), if a field about what is generated is given,
    /// or if the request fails while it runs.
    pub fn embed(&self, request: Request) -> Result<Embedding> {
        let stream = self.stream(Request { embed: true, ..request })?;
        let mut embedding = Embedding::new(stream.id());
        stream.for_each(|event| embedding.push(event));
        embedding.checked()
    }

    /// As [`embed`](Self::embed), for async tasks. Dropping the future aborts the request.
    pub async fn embed_async(&self, request: Request) -> Result<Embedding> {
        let mut stream = self.stream_async(Request { embed: true, ..request })?;
        let mut embedding = Embedding::new(stream.id());
        while let Some(event) = stream.next().await {
            embedding.push(event);
        }
        embedding.checked()
    }

    /// Ends a request, wherever it is: in the queue, in its prompt, or generating. Its client gets
    /// [`FinishReason::Aborted`](crate::FinishReason::Aborted) at once; its place in the queue or
    /// its slot and KV blocks are free after the step that runs. A request that has ended, or that
    /// another engine has, is left as it is.
    pub fn abort(&self, id: RequestId) {
        // If the text thread is gone, so is the request.
        let _ = self.stage.send(Message::Abort(id));
    }

    /// Makes a tenant known that the [options](crate::LoadOptions::tenants) did not name, with its
    /// share beside the others', whose parts of the queue become smaller. One that is known stays
    /// as it is. Returns at once, while the model is being loaded too.
    ///
    /// Errors if its weight is 0.
    pub fn add_tenant(&self, tenant: &Tenant) -> Result<()> {
        let weight = tenant.weight;
        // If the device thread is gone, nobody is served.
        self.shared.backlog.add_tenant(tenant, || drop(self.commands.send(Command::AddTenant { weight })))
    }

    /// Gives up the parts that tenants of other names have of the queue, except the first's: an
    /// idle tenant's at once, another's when nothing of it waits any more. Who comes back with
    /// [`add_tenant`](Self::add_tenant) has a part again.
    pub fn retain_tenants(&self, names: &[String]) {
        self.shared.backlog.retain_tenants(names);
    }

    /// Forgets every prefix that the KV cache has: requests that are submitted from now on compute
    /// their prompts anew. Those that run keep what they have computed, and nobody else finds it.
    /// Returns at once; it happens after the step that runs.
    pub fn reset_prefix_cache(&self) {
        // If the device thread is gone, so is the cache.
        let _ = self.commands.send(Command::ResetPrefixCache);
    }

    /// Counts for metrics, as of the last step. Costs a lock that is held for a copy.
    pub fn stats(&self) -> EngineStats {
        self.shared.stats.read(self.shared.backlog.waiting())
    }

    /// Whether [`submit`](Self::submit) would refuse any request with
    /// [`EngineError::QueueFull`], whoever's it is. Costs a lock that is held for a look, so that a
    /// server can ask before it reads a request.
    pub fn is_full(&self) -> bool {
        self.shared.backlog.is_full()
    }

    /// Takes no requests from now on: [`submit`](Self::submit) says [`EngineError::Draining`].
    /// Those that were taken run to their end. There is no way back.
    pub fn drain(&self) {
        self.shared.backlog.drain();
    }

    /// Waits until all requests have ended, `timeout` at most. True if they have; after
    /// [`drain`](Self::drain) that stays so.
    pub fn wait_until_idle(&self, timeout: Duration) -> bool {
        self.shared.backlog.wait_until_idle(timeout)
    }

    /// The backend's read bandwidth in bytes a second, measured between steps by the first call;
    /// `None` if it cannot tell. Waits for the step that runs and for the measurement.
    ///
    /// Errors while the model is being loaded, if the engine has failed, or if the measurement
    /// fails, which harms no request.
    pub fn measure_read_bandwidth(&self) -> Result<Option<f64>> {
        self.shared.loaded()?;
        let (reply, answer) = bounded(1);
        let gone = || self.shared.failure.stopped("its thread has ended");
        self.commands.send(Command::Bandwidth { reply }).map_err(|_| gone())?;
        Ok(answer.recv().map_err(|_| gone())??)
    }

    fn subscription(&self, id: RequestId, num_choices: usize) -> Subscription {
        Subscription::new(id, num_choices, self.stage.clone(), Arc::clone(&self.shared))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Both at once: clients do not wait for the step that runs.
        let _ = self.stage.send(Message::Stop);
        let _ = self.commands.send(Command::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
