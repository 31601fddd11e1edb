//! What the server asks of an engine.

use nvllm_engine::{
    Engine, EngineError, EngineInfo, EngineStats, EventSink, Health, Request, RequestId, Tenant,
};

/// What generates the tokens that the server sends: an [`Engine`] of this process, or what stands
/// in its place (a recorded one, one that injects faults, one that is elsewhere).
///
/// No call waits. What takes time is told to the request's [`EventSink`], as an engine does it:
/// every request that is taken ends with one [`Event::Finished`](nvllm_engine::Event::Finished) for
/// each of its choices, unless its sink says [`Gone`](nvllm_engine::Gone) before.
pub trait Generator: Send + Sync {
    /// Whether requests are taken.
    fn health(&self) -> Health;
    /// Whether [`submit`](Self::submit) would refuse any request now, as the queue is full: asked
    /// before a request is read.
    fn is_full(&self) -> bool {
        false
    }
    /// How far loading has come, from 0 to 1.
    fn load_progress(&self) -> f32 {
        if self.info().is_some() { 1.0 } else { 0.0 }
    }
    /// What was loaded, under which limits; `None` before that.
    fn info(&self) -> Option<&EngineInfo>;
    /// Counts for metrics.
    fn stats(&self) -> EngineStats;
    /// Makes a tenant known; one that is known stays as it is.
    fn add_tenant(&self, name: &str);
    /// Gives what other tenants have of the queue to those of these names.
    fn retain_tenants(&self, _names: &[String]) {}
    /// Takes a request, or errors as [`Engine::submit`] does.
    fn submit(&self, request: Request, sink: Box<dyn EventSink>) -> Result<RequestId, EngineError>;
    /// Ends a request, wherever it is; one that has ended is left as it is.
    fn abort(&self, id: RequestId);
    /// Forgets the prefixes that the KV cache has: later requests compute their prompts anew.
    fn reset_prefix_cache(&self);
    /// Takes no requests from now on; those that were taken run to their end.
    fn drain(&self);
}

impl Generator for Engine {
    fn health(&self) -> Health {
        self.health()
    }

    fn is_full(&self) -> bool {
        Self::is_full(self)
    }

    fn load_progress(&self) -> f32 {
        self.load_progress()
    }

    fn info(&self) -> Option<&EngineInfo> {
        self.info().ok()
    }

    fn stats(&self) -> EngineStats {
        self.stats()
    }

    fn add_tenant(&self, name: &str) {
        // Refused for a weight of 0 only.
        let _ = Self::add_tenant(self, &Tenant { name: name.to_owned(), weight: 1 });
    }

    fn retain_tenants(&self, names: &[String]) {
        Self::retain_tenants(self, names);
    }

    fn submit(&self, request: Request, sink: Box<dyn EventSink>) -> Result<RequestId, EngineError> {
        self.submit(request, sink)
    }

    fn abort(&self, id: RequestId) {
        self.abort(id);
    }

    fn reset_prefix_cache(&self) {
        self.reset_prefix_cache();
    }

    fn drain(&self) {
        self.drain();
    }
}
