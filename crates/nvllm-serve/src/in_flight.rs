//! What the engine does for this server: counted, told to whom it belongs, and ended together when
//! the server must end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvllm_engine::{
    EngineError, EngineInfo, EngineStats, Event, EventSink, Gone, Health, Request, RequestId,
};
use tokio::sync::watch;

use crate::context::{self, RequestContext};
use crate::generator::Generator;

/// A [`Generator`] that knows which requests of another have not ended. It gives each request the
/// tenant whose API key it came with, and counts its tokens for the log.
pub struct InFlight {
    generator: Arc<dyn Generator>,
    open: Arc<Open>,
}

#[derive(Default)]
struct Open {
    /// By a number of our own, as a request may end before its id is known here.
    requests: Mutex<Requests>,
    num: watch::Sender<usize>,
    /// Whether what is submitted from now on is aborted at once.
    aborting: AtomicBool,
}

#[derive(Default)]
struct Requests {
    next: u64,
    ids: BTreeMap<u64, Option<RequestId>>,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Requests> {
        // No panic can leave the numbers half changed.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>) -> Ticket {
        let mut requests = self.lock();
        let number = requests.next;
        requests.next += 1;
        requests.ids.insert(number, None);
        self.num.send_replace(requests.ids.len());
        Ticket { open: Arc::clone(self), number }
    }
}

/// A request's place among those that have not ended, which it leaves when this is dropped.
struct Ticket {
    open: Arc<Open>,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut requests = self.open.lock();
        requests.ids.remove(&self.number);
        self.open.num.send_replace(requests.ids.len());
    }
}

/// A request's sink, with what is known of it here.
struct CountedSink {
    sink: Box<dyn EventSink>,
    context: Option<Arc<RequestContext>>,
    _ticket: Ticket,
}

impl EventSink for CountedSink {
    fn send(&mut self, event: Event) -> Result<(), Gone> {
        if let Some(context) = &self.context {
            context.count(&event);
        }
        self.sink.send(event)
    }
}

impl InFlight {
    /// What `generator` does, observed.
    pub fn new(generator: Arc<dyn Generator>) -> Self {
        Self { generator, open: Arc::default() }
    }

    /// Whose request is being worked on; the generator knows that tenant then, even if the name of
    /// its key came after the start.
    fn tenant(&self) -> Option<String> {
        let tenant = context::current()?.tenant()?.to_owned();
        self.generator.add_tenant(&tenant);
        Some(tenant)
    }

    /// Requests that have not ended.
    pub fn num_requests(&self) -> usize {
        self.open.lock().ids.len()
    }

    /// Waits until all requests have ended.
    pub async fn wait_until_idle(&self) {
        // The sender lives as long as this.
        let _ = self.open.num.subscribe().wait_for(|num| *num == 0).await;
    }

    /// Ends all requests, and those that come later at once; returns how many there were.
    pub fn abort_all(&self) -> usize {
        self.open.aborting.store(true, Ordering::SeqCst);
        // Not under the lock: an abort may drop a sink here and now.
        let ids: Vec<_> = self.open.lock().ids.values().copied().collect();
        ids.iter().flatten().for_each(|id| self.generator.abort(*id));
        ids.len()
    }
}

impl Generator for InFlight {
    fn health(&self) -> Health {
        self.generator.health()
    }

    fn is_full(&self) -> bool {
        // A tenant that is new has room where all others have none.
        self.tenant();
        self.generator.is_full()
    }

    fn load_progress(&self) -> f32 {
        self.generator.load_progress()
    }

    fn info(&self) -> Option<&EngineInfo> {
        self.generator.info()
    }

    fn stats(&self) -> EngineStats {
        self.generator.stats()
    }

    fn reset_prefix_cache(&self) {
        self.generator.reset_prefix_cache();
    }

    fn add_tenant(&self, name: &str) {
        self.generator.add_tenant(name);
    }

    fn retain_tenants(&self, names: &[String]) {
        self.generator.retain_tenants(names);
    }

    fn submit(&self, mut request: Request, sink: Box<dyn EventSink>) -> Result<RequestId, EngineError> {
        let context = context::current();
        request.tenant = self.tenant().or(request.tenant);
        let ticket = self.open.enter();
        let number = ticket.number;
        let id = self.generator.submit(request, Box::new(CountedSink { sink, context, _ticket: ticket }))?;
        if let Some(known) = self.open.lock().ids.get_mut(&number) {
            *known = Some(id);
        }
        if self.open.aborting.load(Ordering::SeqCst) {
            self.generator.abort(id);
        }
        Ok(id)
    }

    fn abort(&self, id: RequestId) {
        self.generator.abort(id);
    }

    fn drain(&self) {
        self.generator.drain();
    }
}
