//! What the engine counts, as families: read when somebody asks, so that nothing is counted twice.

use nvllm_engine::EngineStats;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::labels::{Labels, PREFIX};
use crate::generator::Generator;

/// A value with labels of its own.
type Sample<'a> = (&'a [(&'a str, &'a str)], f64);

pub(super) fn families(generator: &dyn Generator, labels: &Labels) -> Vec<MetricFamily> {
    let stats = generator.stats();
    let family = |name: &str, help: &str, kind, samples: &[Sample<'_>]| {
        let mut family = MetricFamily::default();
        family.set_name(format!("{PREFIX}{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(samples.iter().map(|sample| metric(kind, labels, sample)).collect());
        family
    };
    let mut families: Vec<_> = gauges(&stats)
        .map(|(name, help, value)| family(name, help, MetricType::GAUGE, &[(&[], value)]))
        .into_iter()
        .chain(
            counters(&stats)
                .map(|(name, help, value)| family(name, help, MetricType::COUNTER, &[(&[], value)])),
        )
        .collect();
    let finished = [
        ("stop", stats.finished.stop_token + stats.finished.stop_string),
        ("length", stats.finished.length),
        ("abort", stats.finished.aborted),
        ("deadline", stats.finished.deadline),
        ("error", stats.finished.failed),
    ];
    let reasons = finished.map(|(reason, count)| ([("finished_reason", reason)], count as f64));
    let samples: Vec<Sample<'_>> = reasons.iter().map(|(reason, count)| (&reason[..], *count)).collect();
    let help = "Choices of requests that have ended, by reason.";
    families.push(family("request_success_total", help, MetricType::COUNTER, &samples));
    let states = [("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)];
    let states = states.map(|(state, value)| ([("sleep_state", state)], value));
    let samples: Vec<Sample<'_>> = states.iter().map(|(state, value)| (&state[..], *value)).collect();
    let help = "Which state the engine is in, by the names of vLLM's; it is always awake.";
    families.push(family("engine_sleep_state", help, MetricType::GAUGE, &samples));
    if let Some(share) = stats.device_wait_share() {
        let help = "Share of the time with work in which the device waited for the host, since the start.";
        families.push(family("device_wait_share", help, MetricType::GAUGE, &[(&[], share)]));
    }
    if let Some(info) = generator.info() {
        let (block_len, num_blocks) = (info.limits.block_len.to_string(), stats.total_blocks.to_string());
        let config: &[_] = &[
            ("block_size", &*block_len),
            ("cache_dtype", info.limits.kv_format.name()),
            ("num_gpu_blocks", &*num_blocks),
        ];
        let help = "How the KV cache is divided.";
        families.push(family("cache_config_info", help, MetricType::GAUGE, &[(config, 1.0)]));
    }
    families
}

fn gauges(stats: &EngineStats) -> [(&'static str, &'static str, f64); 3] {
    let usage =
        if stats.total_blocks == 0 { 0.0 } else { stats.used_blocks as f64 / stats.total_blocks as f64 };
    [
        ("num_requests_running", "Choices of requests that are being computed.", stats.num_running as f64),
        ("num_requests_waiting", "Requests that wait to be admitted.", stats.num_waiting as f64),
        ("kv_cache_usage_perc", "Share of the KV cache's blocks that are in use, 0 to 1.", usage),
    ]
}

/// A prompt counts when it is admitted, with what the cache had of it, as with vLLM.
fn counters(stats: &EngineStats) -> [(&'static str, &'static str, f64); 10] {
    let count = |count: u64| count as f64;
    [
        (
            "prompt_tokens_total",
            "Prompt tokens of choices that were admitted, those from the cache included.",
            count(stats.num_queried_tokens),
        ),
        ("prompt_tokens_cached_total", "Those of them that the cache had.", count(stats.num_cached_tokens)),
        (
            "prompt_tokens_computed_total",
            "Prompt tokens that were computed, again after a preemption.",
            count(stats.num_prompt_tokens),
        ),
        ("generation_tokens_total", "Tokens that were generated.", count(stats.num_output_tokens)),
        ("num_preemptions_total", "Choices that were preempted.", count(stats.num_preemptions)),
        (
            "prefix_cache_queries_total",
            "Prompt tokens that were looked for in the prefix cache.",
            count(stats.num_queried_tokens),
        ),
        (
            "prefix_cache_hits_total",
            "Prompt tokens that were found in the prefix cache.",
            count(stats.num_cached_tokens),
        ),
        ("engine_steps_total", "Steps that the device ran.", count(stats.num_steps)),
        (
            "device_busy_seconds_total",
            "Time in which the device ran steps, as far as it can tell.",
            stats.device_busy.as_secs_f64(),
        ),
        (
            "device_waited_seconds_total",
            "Time in which the device waited for the host while there was work.",
            stats.device_waited.as_secs_f64(),
        ),
    ]
}

fn metric(kind: MetricType, labels: &Labels, (own, value): &Sample<'_>) -> Metric {
    let pair = |(name, value): (&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    let mut metric = Metric::from_label(own.iter().copied().chain(labels.pairs()).map(pair).collect());
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(*value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(*value);
        metric.set_gauge(gauge);
    }
    metric
}
