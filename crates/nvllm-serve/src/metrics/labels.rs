//! What every metric carries: the beginning of its name, and labels.

use std::collections::HashMap;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

/// What every name begins with.
pub(super) const PREFIX: &str = "nvllm:";

/// The labels of every metric: the model's name, and `engine`, which numbers vLLM's replicas.
pub(super) struct Labels(String);

impl Labels {
    pub(super) fn new(model_name: &str) -> Self {
        Self(model_name.to_owned())
    }

    pub(super) fn pairs(&self) -> [(&'static str, &str); 2] {
        [("engine", "0"), ("model_name", &self.0)]
    }

    fn map(&self) -> HashMap<String, String> {
        self.pairs().map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// A counter that is registered, with further labels.
    pub(super) fn counter(&self, registry: &Registry, name: &str, help: &str, by: &[&str]) -> IntCounterVec {
        let opts = Opts::new(format!("{PREFIX}{name}"), help).const_labels(self.map());
        register(registry, IntCounterVec::new(opts, by).expect("names are legal"))
    }

    /// A histogram that is registered.
    pub(super) fn histogram(
        &self,
        registry: &Registry,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
    ) -> Histogram {
        let opts = HistogramOpts::new(format!("{PREFIX}{name}"), help).const_labels(self.map());
        register(registry, Histogram::with_opts(opts.buckets(buckets)).expect("names and buckets are legal"))
    }
}

/// Registers a metric whose name no other has.
fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> C {
    registry.register(Box::new(metric.clone())).expect("each is registered once");
    metric
}
