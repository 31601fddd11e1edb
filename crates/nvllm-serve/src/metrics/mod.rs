//! What is counted, as Prometheus reads it.
//!
//! Names are vLLM's with `nvllm:` before them; [`Alias::Vllm`] gives every family under vLLM's own
//! name as well. What the engine counts is read from it when somebody asks ([`engine`]); what only
//! the events of a request tell is counted as they pass ([`requests`]); answers are counted by a
//! layer around all routes ([`http`]).

mod engine;
pub(crate) mod http;
mod labels;
mod requests;
mod throughput;

pub(crate) use requests::Observer;

use std::sync::Arc;

use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Registry, TextEncoder};

use crate::generator::Generator;
use labels::{Labels, PREFIX};
use requests::Submissions;
use throughput::Throughput;

/// Further names under which metrics are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alias {
    /// `nvllm:` alone.
    #[default]
    Nothing,
    /// vLLM's: every `nvllm:NAME` is `vllm:NAME` too, so that dashboards and routers that know
    /// vLLM need no change.
    Vllm,
}

/// What a server counts.
pub(crate) struct Metrics {
    registry: Registry,
    alias: Alias,
    labels: Labels,
    submissions: Arc<Submissions>,
    answers: IntCounterVec,
    refusals: IntCounterVec,
    throughput: Throughput,
}

impl Metrics {
    /// For a model of this name, whose sequences have at most `max_tokens` tokens.
    pub(crate) fn new(model_name: &str, max_tokens: usize, alias: Alias) -> Self {
        let labels = Labels::new(model_name);
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("the registry is empty");
        let counter = |name: &str, help: &str, by: &[&str]| labels.counter(&registry, name, help, by);
        Self {
            answers: counter(
                "http_requests_total",
                "Answers by route and status; probes are not counted. 499: the client went away first.",
                &["method", "handler", "status"],
            ),
            refusals: counter(
                "requests_refused_total",
                "Requests that were refused because the server takes none now, by reason.",
                &["reason"],
            ),
            submissions: Arc::new(Submissions::new(&registry, &labels, max_tokens)),
            registry,
            alias,
            labels,
            throughput: Throughput::new(),
        }
    }

    /// All of it in Prometheus' text format.
    pub(crate) fn text(&self, generator: &dyn Generator) -> prometheus::Result<String> {
        let mut families = self.registry.gather();
        families.extend(engine::families(generator, &self.labels));
        if self.alias == Alias::Vllm {
            let copies: Vec<_> = families.iter().filter_map(renamed).collect();
            families.extend(copies);
        }
        TextEncoder::new().encode_to_string(&families)
    }

    /// What sees the events of one submission, of requests of `n` choices each, which are about to
    /// be submitted.
    pub(crate) fn observer(&self, num_requests: usize, n: usize) -> Observer {
        Observer::new(&self.submissions, num_requests, n)
    }

    /// Submissions that have not ended.
    pub(crate) fn num_open(&self) -> usize {
        self.submissions.num_open()
    }

    /// Tokens a second, over the time since it was last asked for.
    pub(crate) fn throughput(&self, num_output_tokens: u64) -> f64 {
        self.throughput.measure(num_output_tokens, std::time::Instant::now())
    }
}

/// A family under vLLM's name.
fn renamed(family: &MetricFamily) -> Option<MetricFamily> {
    let suffix = family.name().strip_prefix(PREFIX)?;
    let mut renamed = family.clone();
    renamed.set_name(format!("vllm:{suffix}"));
    Some(renamed)
}
