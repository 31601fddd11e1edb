//! A device that fails while it serves: every request in flight ends with the reason, nothing hangs, and later requests are told too.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use nvllm_core::{
    Activations, Backend, BackendInfo, CoreError, DType, EntryId, Executable, HostTensor, KvCache,
    MemoryReport, OpQuery, OrderId, Plan, PlanRules, Program, Reason, Reference, Result, Step, StepOutput,
    Tensor, Ticket, TokenId, TokenMasks, WeightSource,
};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{Engine, Event, FinishReason, Finished, LoadOptions, Model, Request, RequestStream};

/// The call that fails, counted from 1.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Submit(usize),
    Collect(usize),
    Panic(usize),
    /// The rows of logits of a step cannot be copied to the host.
    Logits(usize),
}

const ILLEGAL: &str = "an illegal address was read";

/// A row whose copy fails.
struct Unreadable;

impl Tensor for Unreadable {
    fn shape(&self) -> &[usize] {
        &[1]
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn to_host(&self) -> Result<HostTensor> {
        Err(CoreError::Device { backend: "failing".into(), problem: ILLEGAL.into() })
    }
}

/// The reference on a device that fails once, or for good from then on.
struct Failing {
    reference: Reference,
    fault: Fault,
    for_good: bool,
}

struct FailingExecutable {
    inner: Box<dyn Executable>,
    fault: Fault,
    for_good: bool,
    calls: [usize; 2],
}

impl Backend for Failing {
    fn info(&self) -> BackendInfo {
        self.reference.info()
    }

    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
        self.reference.supports(query)
    }

    fn plan_rules(&self) -> PlanRules {
        self.reference.plan_rules()
    }

    fn order(&self, query: &OpQuery<'_>, num_rows: usize) -> OrderId {
        self.reference.order(query, num_rows)
    }

    fn load(&self, plan: Plan, weights: &dyn WeightSource) -> Result<Box<dyn Executable>> {
        let inner = self.reference.load(plan, weights)?;
        let Self { fault, for_good, .. } = *self;
        Ok(Box::new(FailingExecutable { inner, fault, for_good, calls: [0; 2] }))
    }
}

impl FailingExecutable {
    /// Counts a call of `kind`, 0 for submit and 1 for collect, and fails if its time has come.
    fn call(&mut self, kind: usize) -> Result<()> {
        self.calls[kind] += 1;
        let (at, of) = match self.fault {
            Fault::Submit(at) => (at, 0),
            Fault::Collect(at) | Fault::Panic(at) => (at, 1),
            Fault::Logits(_) => return Ok(()),
        };
        let now = kind == of && self.calls[kind] == at;
        let panics = now && matches!(self.fault, Fault::Panic(_));
        assert!(!panics, "index 7 is out of bounds");
        if now || self.for_good && self.calls[of] >= at {
            return Err(CoreError::Device { backend: "failing".into(), problem: ILLEGAL.into() });
        }
        Ok(())
    }
}

impl Executable for FailingExecutable {
    fn program(&self, entry: EntryId) -> Option<&Program> {
        self.inner.program(entry)
    }

    fn submit(&mut self, step: &Step) -> Result<Ticket> {
        self.call(0)?;
        self.inner.submit(step)
    }

    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()> {
        self.inner.supply_masks(ticket, masks)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput> {
        let output = self.inner.collect(ticket);
        self.call(1)?;
        let mut output = output?;
        if matches!(self.fault, Fault::Logits(at) if at == self.calls[1]) {
            let logits = output.rows.iter_mut().filter_map(|row| row.values.as_mut());
            logits.for_each(|row| *row = Box::new(Unreadable));
        }
        Ok(output)
    }

    fn failure(&self) -> Option<String> {
        let (at, calls) = match self.fault {
            Fault::Submit(at) => (at, self.calls[0]),
            Fault::Collect(at) => (at, self.calls[1]),
            Fault::Panic(_) | Fault::Logits(_) => return None,
        };
        (self.for_good && calls >= at).then(|| ILLEGAL.into())
    }

    fn kv_cache(&mut self) -> &mut dyn KvCache {
        self.inner.kv_cache()
    }

    fn kept(&self, label: &str) -> Option<Box<dyn Tensor>> {
        self.inner.kept(label)
    }

    fn memory(&self) -> MemoryReport {
        self.inner.memory()
    }
}

fn request(i: u32, max_tokens: usize) -> Request {
    Request {
        prompt: (0..3 + 5 * i).map(|t| TokenId((t * 37 + i * 101) % 8000)).collect(),
        max_tokens: Some(max_tokens),
        ..Request::default()
    }
}

fn start(fault: Fault, for_good: bool) -> Engine {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nvllm-tiny");
    let model = Arc::new(Model::open(&ModelFiles::in_directory(&dir).unwrap()).unwrap());
    let options = LoadOptions {
        max_model_len: Some(64),
        max_num_batched_tokens: Some(16),
        max_num_seqs: 3,
        activations: Some(Activations::F32),
        max_in_flight: Some(2),
        ..LoadOptions::default()
    };
    let backend = move || {
        Ok(Box::new(Failing { reference: Reference::default(), fault, for_good }) as Box<dyn Backend>)
    };
    Engine::start(backend, model, options, |_| {}).unwrap()
}

/// How a request ended, or why it was refused.
type Ended = std::result::Result<Finished, String>;

fn end(mut stream: RequestStream) -> Finished {
    loop {
        if let Event::Finished(finished) = stream.next_event().unwrap() {
            return finished;
        }
    }
}

/// Serves six requests and one more after them; how each ended, and how many sequences and blocks are left.
fn serve(fault: Fault, for_good: bool) -> (Vec<Ended>, Ended, usize) {
    let engine = start(fault, for_good);
    let submit = |i, max_tokens| engine.submit(request(i, max_tokens)).map_err(|e| e.to_string());
    let streams: Vec<_> = (0..6).map(|i| submit(i, 8)).collect();
    let ended = streams.into_iter().map(|stream| stream.map(end)).collect();
    let late = submit(0, 2).map(end);
    let stats = engine.stats().unwrap();
    (ended, late, stats.num_running + stats.num_waiting + stats.used_blocks)
}

/// As [`serve`]; fails if it does not end.
fn serve_in_time(fault: Fault, for_good: bool) -> (Vec<Ended>, Ended, usize) {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || drop(done.send(serve(fault, for_good))));
    let Ok(served) = ended.recv_timeout(Duration::from_mins(2)) else { panic!("{fault:?} hangs or panics") };
    served
}

fn check_failed(ended: &Ended) {
    let error = match ended {
        Ok(finished) => {
            assert_eq!(finished.reason, FinishReason::Failed);
            finished.error.as_deref().unwrap_or_default()
        }
        Err(refused) => refused,
    };
    assert!(error.contains(ILLEGAL) && error.lines().count() == 1, "{error}");
}

#[test]
fn a_device_that_fails_for_good_ends_all_requests_with_its_reason() {
    for fault in [Fault::Submit(1), Fault::Submit(3), Fault::Collect(1), Fault::Collect(4)] {
        let (ended, late, left) = serve_in_time(fault, true);
        ended.iter().for_each(check_failed);
        check_failed(&late);
        // Nothing is queued for a device that will not come back.
        assert!(late.is_err(), "{fault:?}: {late:?}");
        assert_eq!((ended.len(), left), (6, 0), "{fault:?}");
    }
}

#[test]
fn a_step_that_fails_once_ends_its_own_requests_and_no_others() {
    for fault in [Fault::Submit(2), Fault::Collect(2)] {
        let (ended, late, left) = serve_in_time(fault, false);
        let reason = |ended: &Ended| ended.as_ref().unwrap().reason;
        let failed: Vec<_> = ended.iter().filter(|f| reason(f) == FinishReason::Failed).collect();
        failed.iter().for_each(|finished| check_failed(finished));
        assert!((1..=3).contains(&failed.len()), "{fault:?}: {} failed", failed.len());
        let served = ended.iter().chain([&late]).filter(|f| reason(f) == FinishReason::Length).count();
        assert_eq!((served, left), (7 - failed.len(), 0), "{fault:?}");
    }
}

#[test]
fn logits_that_cannot_be_read_end_their_request_with_an_error() {
    let engine = start(Fault::Logits(2), false);
    let wants = |logits| Request { logits, ..request(0, 8) };
    let finished = [true, false].map(|logits| end(engine.submit(wants(logits)).unwrap()));
    let error = finished[0].error.as_deref().unwrap_or_default();
    assert!(error.contains("logits cannot be read") && error.contains(ILLEGAL), "{error}");
    assert_eq!(finished.map(|finished| finished.reason), [FinishReason::Failed, FinishReason::Length]);
    let stats = engine.stats().unwrap();
    assert_eq!(stats.num_running + stats.num_waiting + stats.used_blocks, 0);
}

#[test]
fn a_panic_on_the_device_thread_reaches_all_requests_with_its_reason() {
    let engine = start(Fault::Panic(2), false);
    let streams: Vec<_> = (0..6).filter_map(|i| engine.submit(request(i, 8)).ok()).collect();
    let told = |error: nvllm_engine::EngineError| {
        let message = error.to_string();
        assert!(message.contains("index 7 is out of bounds"), "{message}");
    };
    assert!(!streams.is_empty());
    for mut stream in streams {
        told(std::iter::repeat_with(|| stream.next_event()).find_map(std::result::Result::err).unwrap());
    }
    told(engine.submit(request(0, 2)).err().unwrap());
    told(engine.stats().unwrap_err());
}
