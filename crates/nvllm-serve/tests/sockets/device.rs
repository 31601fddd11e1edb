//! A device that fails under load: what clients of every route are told, and how the server ends.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use nvllm_core::program::Counts;
use nvllm_core::{
    Activations, Backend, BackendInfo, CoreError, EntryId, Executable, HostTensor, KvCache, MemoryReport,
    OpQuery, Plan, PlanRules, Program, Reason, Reference, Result, Stage, Step, StepOutput, Ticket,
    TokenMasks, WeightSource,
};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{Engine, LoadOptions, Model};
use nvllm_serve::{InFlight, ServedOptions, Server, ServerOptions};
use serde_json::{Value, json};

use crate::wire::{PATIENCE, Reader, get, post, wait_for};

/// How a device fails.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Error,
    Panic,
}

const ILLEGAL: &str = "an illegal address was read";
/// Steps before the one that fails.
const GOOD_STEPS: usize = 4;

/// The reference backend, whose device fails for good when it is told to.
struct Failing {
    reference: Reference,
    fault: Fault,
    /// For the executable.
    told: Mutex<Option<Receiver<()>>>,
}

struct FailingExecutable {
    inner: Box<dyn Executable>,
    fault: Fault,
    told: Receiver<()>,
    collected: usize,
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

    fn load(&self, plan: Plan, weights: &dyn WeightSource) -> Result<Box<dyn Executable>> {
        let told =
            self.told.lock().unwrap_or_else(PoisonError::into_inner).take().expect("it is loaded once");
        let inner = self.reference.load(plan, weights)?;
        Ok(Box::new(FailingExecutable { inner, fault: self.fault, told, collected: 0 }))
    }
}

impl Executable for FailingExecutable {
    fn submit(&mut self, step: &Step) -> Result<Ticket> {
        self.inner.submit(step)
    }

    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()> {
        self.inner.supply_masks(ticket, masks)
    }

    /// Waits with the failure until the test has sent all its requests.
    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput> {
        let output = self.inner.collect(ticket);
        self.collected += 1;
        if self.collected <= GOOD_STEPS {
            return output;
        }
        // A test that has ended tells too.
        let _ = self.told.recv();
        match self.fault {
            Fault::Panic => panic!("{ILLEGAL}"),
            Fault::Error => Err(CoreError::Device { backend: "failing".into(), problem: ILLEGAL.into() }),
        }
    }

    fn program(&self, entry: EntryId) -> Option<&Program> {
        self.inner.program(entry)
    }

    fn schedule(&self, entry: EntryId, counts: &Counts) -> Vec<Stage> {
        self.inner.schedule(entry, counts)
    }

    fn kv_cache(&mut self) -> &mut dyn KvCache {
        self.inner.kv_cache()
    }

    fn kept(&self, label: &str) -> Result<Option<HostTensor>> {
        self.inner.kept(label)
    }

    fn memory(&self) -> MemoryReport {
        self.inner.memory()
    }

    fn failure(&self) -> Option<String> {
        (self.collected > GOOD_STEPS).then(|| ILLEGAL.into())
    }
}

/// A server whose engine has a device that fails after `GOOD_STEPS`, once it is told to.
struct Doomed {
    server: Server,
    in_flight: Arc<InFlight>,
    fail: Sender<()>,
}

impl Doomed {
    fn start(fault: Fault) -> Self {
        let (fail, told) = channel();
        let told = Mutex::new(Some(told));
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nvllm-tiny");
        let model = Arc::new(Model::open(&ModelFiles::in_directory(&dir).unwrap()).unwrap());
        // Three that run, the others wait.
        let options = LoadOptions {
            max_model_len: Some(64),
            max_num_batched_tokens: Some(64),
            max_num_seqs: Some(3),
            activations: Some(Activations::F32),
            ..LoadOptions::default()
        };
        let backend = move || {
            Ok(Box::new(Failing { reference: Reference::default(), fault, told }) as Box<dyn Backend>)
        };
        let engine = Engine::builder(Arc::clone(&model), backend).options(options).start().unwrap();
        let in_flight = Arc::new(InFlight::new(Arc::new(engine)));
        let listener = nvllm_serve::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let server = Server::start(listener, ServerOptions::default()).unwrap();
        server.open(nvllm_serve::router(&model, ServedOptions::default(), in_flight.clone()).unwrap());
        Self { server, in_flight, fail }
    }

    fn send(&self, request: &str) -> Reader {
        let mut stream = std::net::TcpStream::connect(self.server.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        Reader(std::io::BufReader::new(stream))
    }
}

/// A request for more than the steps that succeed, in each route's form.
fn requests(stream: bool) -> [(&'static str, Value); 4] {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    [
        (
            "/v1/completions",
            json!({ "prompt": "hi", "max_tokens": 32, "ignore_eos": true, "stream": stream }),
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "max_tokens": 32, "ignore_eos": true, "stream": stream }),
        ),
        (
            "/v1/responses",
            json!({ "input": "hi", "max_output_tokens": 32, "ignore_eos": true, "stream": stream }),
        ),
        (
            "/v1/messages",
            json!({ "messages": messages, "max_tokens": 32, "ignore_eos": true, "stream": stream }),
        ),
    ]
}

/// What the last event of a stream says.
fn last_event(path: &str, all: &str) -> (String, String) {
    let events: Vec<&str> = all.split("\n\n").filter(|event| event.contains("data: ")).collect();
    // What a connection's chunked coding puts between is no part of an event.
    let event = events.last().unwrap_or_else(|| panic!("{path}: {all}"));
    let line =
        |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    (line("event: "), line("data: "))
}

fn check(fault: Fault) {
    let doomed = Doomed::start(fault);
    let send = |stream: bool| {
        requests(stream).map(|(path, body)| (path, doomed.send(&post(path, "Connection: close\r\n", &body))))
    };
    let (streamed, whole) = (send(true), send(false));
    wait_for(|| (doomed.in_flight.num_requests() == 8).then_some(()));
    doomed.fail.send(()).unwrap();
    for (path, mut reader) in streamed {
        let all = reader.rest();
        assert!(all.starts_with("HTTP/1.1 200"), "{path}: {all}");
        let (event, data) = last_event(path, &all);
        let data: Value = serde_json::from_str(&data).unwrap_or_else(|e| panic!("{path}: {e}: {all}"));
        let (name, message) = match path {
            "/v1/responses" => ("response.failed", &data["response"]["error"]["message"]),
            _ => ("error", &data["error"]["message"]),
        };
        assert_eq!(event, name, "{path}: {all}");
        assert!(message.as_str().is_some_and(|message| message.contains(ILLEGAL)), "{path}: {data}");
        assert!(!all.contains("[DONE]") && !all.contains("message_stop"), "{path}: {all}");
    }
    for (path, mut reader) in whole {
        let answer = reader.answer();
        let message = answer.json()["error"]["message"].to_string();
        assert_eq!(answer.status, 500, "{path}: {message}");
        assert!(message.contains(ILLEGAL), "{path}: {message}");
    }
    // Who comes later is told too, and not to come again: it does not pass.
    for (path, body) in requests(true) {
        let answer = doomed.send(&post(path, "", &body)).answer();
        assert_eq!((answer.status, answer.header("retry-after")), (500, None), "{path}");
        assert!(answer.body.contains(ILLEGAL), "{path}: {}", answer.body);
    }
    for path in ["/health", "/health/ready"] {
        let answer = doomed.send(&get(path, "")).answer();
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.body.contains(ILLEGAL), "{path}: {}", answer.body);
    }
    let Doomed { server, in_flight, fail: _fail } = doomed;
    // A request is counted until its last byte has been handed over.
    wait_for(|| (in_flight.num_requests() == 0).then_some(()));
    assert_eq!(server.shut_down(&in_flight, PATIENCE).aborted, 0);
}

#[test]
fn a_device_that_fails_under_load_is_told_to_every_client() {
    check(Fault::Error);
}

#[test]
fn a_panic_of_the_device_under_load_is_told_to_every_client() {
    check(Fault::Panic);
}
