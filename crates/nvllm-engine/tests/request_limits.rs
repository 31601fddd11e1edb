//! A request with a longer list than the backend takes is refused alone, before it is queued.

use std::path::Path;
use std::sync::Arc;

use nvllm_core::{
    Activations, Backend, BackendInfo, EntryId, Executable, KvCache, MemoryReport, OpQuery, OrderId, Plan,
    PlanRules, Program, Reason, Reference, RequestLimits, Result, SamplingParams, Step, StepOutput, Tensor,
    Ticket, TokenId, TokenMasks, WeightSource,
};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{Engine, Event, FinishReason, LoadOptions, Model, Request};

const LIMITS: RequestLimits = RequestLimits { stop_tokens: 2, logit_biases: 3 };

/// The reference with tables of a fixed size: like a GPU, it refuses a whole step for one long list.
struct Small(Reference);

struct SmallExecutable(Box<dyn Executable>);

impl Backend for Small {
    fn info(&self) -> BackendInfo {
        self.0.info()
    }

    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
        self.0.supports(query)
    }

    fn plan_rules(&self) -> PlanRules {
        self.0.plan_rules()
    }

    fn order(&self, query: &OpQuery<'_>, num_rows: usize) -> OrderId {
        self.0.order(query, num_rows)
    }

    fn load(&self, plan: Plan, weights: &dyn WeightSource) -> Result<Box<dyn Executable>> {
        Ok(Box::new(SmallExecutable(self.0.load(plan, weights)?)))
    }
}

impl Executable for SmallExecutable {
    fn program(&self, entry: EntryId) -> Option<&Program> {
        self.0.program(entry)
    }

    fn submit(&mut self, step: &Step) -> Result<Ticket> {
        step.resets.iter().try_for_each(|reset| LIMITS.check(&reset.sampling))?;
        self.0.submit(step)
    }

    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()> {
        self.0.supply_masks(ticket, masks)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput> {
        self.0.collect(ticket)
    }

    fn kv_cache(&mut self) -> &mut dyn KvCache {
        self.0.kv_cache()
    }

    fn kept(&self, label: &str) -> Option<Box<dyn Tensor>> {
        self.0.kept(label)
    }

    fn memory(&self) -> MemoryReport {
        self.0.memory()
    }

    fn request_limits(&self) -> RequestLimits {
        LIMITS
    }
}

fn engine() -> Engine {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nvllm-tiny");
    let model = Arc::new(Model::open(&ModelFiles::in_directory(&dir).unwrap()).unwrap());
    let options = LoadOptions {
        max_model_len: Some(64),
        max_num_seqs: 3,
        activations: Some(Activations::F32),
        ..LoadOptions::default()
    };
    Engine::start(|| Ok(Box::new(Small(Reference::default())) as _), model, options, |_| {}).unwrap()
}

/// A request with so many stop tokens, which it cannot sample, and so many biases.
fn request(stop_tokens: u32, biases: u32) -> Request {
    let sampling = SamplingParams {
        stop_tokens: (0..stop_tokens).map(|i| TokenId(7000 + i)).collect(),
        logit_bias: (0..biases).map(|i| (TokenId(7000 + i), -100.0)).collect(),
        ..SamplingParams::default()
    };
    Request { prompt: vec![TokenId(5), TokenId(6)], sampling, max_tokens: Some(4), ..Request::default() }
}

#[test]
fn a_request_beyond_the_backends_limits_is_refused_alone() {
    let engine = engine();
    let mut streams = vec![engine.submit(request(0, 0)).unwrap()];
    for (stop_tokens, biases, words) in [
        (3, 3, ["`stop_token_ids`", "3 entries", "2 or fewer"]),
        (2, 4, ["`logit_bias`", "4 entries", "3 or fewer"]),
    ] {
        let Err(error) = engine.submit(request(stop_tokens, biases)) else { panic!("{words:?}: taken") };
        let message = error.to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    streams.push(engine.submit(request(2, 3)).unwrap());
    for mut stream in streams {
        let finished = loop {
            if let Event::Finished(finished) = stream.next_event().unwrap() {
                break finished;
            }
        };
        assert_eq!((finished.reason, finished.error), (FinishReason::Length, None));
    }
}
