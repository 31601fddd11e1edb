//! What is counted, as Prometheus reads it.
//!
//! Names are vLLM's with `nvllm:` before them; [`Alias::Vllm`] gives every family under vLLM's own
//! name as well. What the engine counts is read from it when somebody asks ([`engine`]); what only
//! the events of a request tell is counted as they pass ([`requests`]); answers are counted by a
//! layer around all routes ([`http`]).

mod engine;
pub(crate) mod http;
mod requests;
mod throughput;

pub(crate) use requests::Observer;

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry, TextEncoder};

use crate::generator::Generator;
use throughput::Throughput;

/// What every name begins with.
const PREFIX: &str = "nvllm:";

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
    requests: requests::Histograms,
    answers: IntCounterVec,
    refusals: IntCounterVec,
    /// Submissions that have not ended.
    open: AtomicUsize,
    throughput: Throughput,
}

impl Metrics {
    /// For a model of this name, whose sequences have at most `max_tokens` tokens.
    pub(crate) fn new(model_name: &str, max_tokens: usize, alias: Alias) -> Self {
        let labels = Labels(model_name.to_owned());
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("the registry is empty");
        let counter = |name: &str, help: &str, by: &[&str]| {
            let opts = Opts::new(format!("{PREFIX}{name}"), help).const_labels(labels.map());
            register(&registry, IntCounterVec::new(opts, by).expect("names are legal"))
        };
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
            requests: requests::Histograms::new(&registry, &labels, max_tokens),
            registry,
            alias,
            labels,
            open: AtomicUsize::new(0),
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

    /// Submissions that have not ended.
    pub(crate) fn num_open(&self) -> usize {
        self.open.load(std::sync::atomic::Ordering::Relaxed)
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

/// The labels of every metric: the model's name, and `engine`, which numbers vLLM's replicas.
struct Labels(String);

impl Labels {
    fn pairs(&self) -> [(&'static str, &str); 2] {
        [("engine", "0"), ("model_name", &self.0)]
    }

    fn map(&self) -> HashMap<String, String> {
        self.pairs().map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}

/// Registers a metric whose name no other has.
fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> C {
    registry.register(Box::new(metric.clone())).expect("each is registered once");
    metric
}

fn histogram(registry: &Registry, labels: &Labels, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
    let opts = HistogramOpts::new(format!("{PREFIX}{name}"), help).const_labels(labels.map());
    register(registry, Histogram::with_opts(opts.buckets(buckets)).expect("names and buckets are legal"))
}
