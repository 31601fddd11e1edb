//! The demo model on the reference backend, with hooks around its steps.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use nvllm_core::program::Counts;
use nvllm_core::{
    Activations, Backend, BackendInfo, EntryId, Executable, HostTensor, KvCache, MemoryReport, OpQuery, Plan,
    PlanRules, Program, Reason, Reference, RequestLimits, Result, Stage, Step, StepOutput, Ticket, TokenId,
    TokenMasks, WeightSource,
};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{Engine, Event, Finished, Generated, LoadOptions, Model, Request};

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// What a test changes in the reference. What it does not name is the reference's.
pub(crate) trait Hooks: Clone + Send + 'static {
    fn submit(&mut self, inner: &mut dyn Executable, step: &Step) -> Result<Ticket> {
        inner.submit(step)
    }

    fn collect(&mut self, inner: &mut dyn Executable, ticket: Ticket) -> Result<StepOutput> {
        inner.collect(ticket)
    }

    fn supply_masks(&mut self, inner: &mut dyn Executable, ticket: &Ticket, masks: TokenMasks) -> Result<()> {
        inner.supply_masks(ticket, masks)
    }

    fn failure(&self) -> Option<String> {
        None
    }

    fn request_limits(&self) -> RequestLimits {
        RequestLimits::default()
    }

    fn measure_read_bandwidth(&self) -> Result<Option<f64>> {
        Ok(None)
    }
}

/// The reference as it is.
#[derive(Clone)]
pub(crate) struct Plain;

impl Hooks for Plain {}

struct Hooked<H>(Reference, H);

struct HookedExecutable<H>(Box<dyn Executable>, H);

impl<H: Hooks> Backend for Hooked<H> {
    fn info(&self) -> BackendInfo {
        self.0.info()
    }

    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
        self.0.supports(query)
    }

    fn plan_rules(&self) -> PlanRules {
        self.0.plan_rules()
    }

    fn measure_read_bandwidth(&self) -> Result<Option<f64>> {
        self.1.measure_read_bandwidth()
    }

    fn load(&self, plan: Plan, weights: &dyn WeightSource) -> Result<Box<dyn Executable>> {
        Ok(Box::new(HookedExecutable(self.0.load(plan, weights)?, self.1.clone())))
    }
}

impl<H: Hooks> Executable for HookedExecutable<H> {
    fn submit(&mut self, step: &Step) -> Result<Ticket> {
        self.1.submit(self.0.as_mut(), step)
    }

    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()> {
        self.1.supply_masks(self.0.as_mut(), ticket, masks)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput> {
        self.1.collect(self.0.as_mut(), ticket)
    }

    fn program(&self, entry: EntryId) -> Option<&Program> {
        self.0.program(entry)
    }

    fn schedule(&self, entry: EntryId, counts: &Counts) -> Vec<Stage> {
        self.0.schedule(entry, counts)
    }

    fn kv_cache(&mut self) -> &mut dyn KvCache {
        self.0.kv_cache()
    }

    fn kept(&self, label: &str) -> Result<Option<HostTensor>> {
        self.0.kept(label)
    }

    fn memory(&self) -> MemoryReport {
        self.0.memory()
    }

    fn failure(&self) -> Option<String> {
        self.1.failure()
    }

    fn request_limits(&self) -> RequestLimits {
        self.1.request_limits()
    }
}

/// The backend with `hooks` in it.
pub(crate) fn backend<H: Hooks>(hooks: H) -> Box<dyn Backend> {
    Box::new(Hooked(Reference::default(), hooks))
}

pub(crate) fn model() -> Arc<Model> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nvllm-tiny");
    Arc::new(Model::open(&ModelFiles::in_directory(&dir).unwrap()).unwrap())
}

/// Three sequences of 64 tokens, in steps of 16.
pub(crate) fn options() -> LoadOptions {
    LoadOptions {
        max_model_len: Some(64),
        max_num_batched_tokens: Some(16),
        max_num_seqs: Some(3),
        activations: Some(Activations::F32),
        ..LoadOptions::default()
    }
}

pub(crate) fn start<H: Hooks>(hooks: H, options: LoadOptions) -> Engine {
    Engine::builder(model(), move || Ok(backend(hooks))).options(options).start().unwrap()
}

/// An engine that loads until the sender is dropped.
pub(crate) fn spawn_loading() -> (Engine, Sender<()>) {
    let (go, gone) = unbounded::<()>();
    let factory = move || {
        let _ = gone.recv();
        Ok(backend(Plain))
    };
    (Engine::builder(model(), factory).options(options()).spawn().unwrap(), go)
}

/// An engine for one sequence at a time whose steps end when the test says so.
pub(crate) fn start_stepwise(options: &LoadOptions) -> (Engine, StepControl) {
    let (began, begun) = unbounded();
    let (permits, permitted) = unbounded();
    let engine =
        start(Stepwise { began, permitted }, LoadOptions { max_num_seqs: Some(1), ..options.clone() });
    (engine, StepControl { begun, permits })
}

/// Lets steps end. Dropping it lets all end.
pub(crate) struct StepControl {
    begun: Receiver<()>,
    permits: Sender<()>,
}

impl StepControl {
    /// Waits until the next step is being collected.
    pub(crate) fn wait_for_step(&self) {
        self.begun.recv_timeout(PATIENCE).expect("a step");
    }

    /// Lets one step end.
    pub(crate) fn end_step(&self) {
        self.permits.send(()).unwrap();
    }
}

#[derive(Clone)]
struct Stepwise {
    began: Sender<()>,
    permitted: Receiver<()>,
}

impl Hooks for Stepwise {
    fn collect(&mut self, inner: &mut dyn Executable, ticket: Ticket) -> Result<StepOutput> {
        let output = inner.collect(ticket);
        let _ = self.began.send(());
        let _ = self.permitted.recv();
        output
    }
}

/// A request whose prompt has `3 + 5 * i` tokens.
pub(crate) fn request(i: u32, max_tokens: usize) -> Request {
    Request {
        prompt: (0..3 + 5 * i).map(|t| TokenId((t * 37 + i * 101) % 8000)).collect(),
        max_tokens: Some(max_tokens),
        ..Request::default()
    }
}

/// The end of a request, whose other events are not looked at.
pub(crate) fn end(events: impl IntoIterator<Item = Event>) -> Finished {
    let finished = |event| if let Event::Finished(finished) = event { Some(finished) } else { None };
    events.into_iter().find_map(finished).expect("an end")
}

/// Tokens and all scores.
pub(crate) fn parts(generated: &Generated) -> (Vec<TokenId>, String) {
    (generated.tokens.clone(), format!("{:?}", generated.logprobs))
}

/// Runs the requests one after another, and then together with three steps in flight, three slots,
/// and blocks for less than they need in the end: every answer has to be the same. Returns them.
pub(crate) fn alone_and_in_company<const N: usize>(requests: &[Request; N]) -> [(Vec<TokenId>, String); N] {
    let load = LoadOptions { block_size: 4, ..options() };
    let one = start(Plain, LoadOptions { max_in_flight: Some(1), ..load.clone() });
    let alone = requests.each_ref().map(|request| parts(&one.generate(request.clone()).unwrap()));
    let kv_bytes = one.info().unwrap().limits.kv_bytes / 3;
    let kv_cache_bytes = Some(kv_bytes.next_multiple_of(1024) + 64 * 1024);
    let small = start(Plain, LoadOptions { max_in_flight: Some(3), kv_cache_bytes, ..load });
    std::thread::scope(|scope| {
        let run = |request: &Request| parts(&small.generate(request.clone()).unwrap());
        let running = requests.each_ref().map(|request| scope.spawn(move || run(request)));
        for (at, (running, alone)) in running.into_iter().zip(&alone).enumerate() {
            assert_eq!(&running.join().unwrap(), alone, "request {at}");
        }
    });
    assert!(small.stats().num_preemptions > 0, "{:?}", small.stats());
    alone
}

/// Runs `test`; fails if it hangs or panics.
pub(crate) fn in_time<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = unbounded();
    std::thread::spawn(move || drop(done.send(test())));
    ended.recv_timeout(PATIENCE).expect("it hangs or panics")
}

/// Waits until `what` holds.
pub(crate) fn eventually(mut what: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < deadline, "it never comes to that");
        std::thread::sleep(Duration::from_millis(1));
    }
}
