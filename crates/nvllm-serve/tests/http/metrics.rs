//! `/metrics` as Prometheus, dashboards and routers read it.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::task::{Context, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request as HttpRequest;
use nvllm_engine::{EngineError, EngineStats, FinishCounts, FinishReason, Health};
use nvllm_serve::{Alias, ServedOptions};
use serde_json::json;
use tower::ServiceExt as _;

use crate::support::{Script, call, get, post, served, server, tokens};

/// vLLM's names that there are, without what is before the colon, by type. `docs/metrics.md` lists
/// them, and those that there are not.
const CORE: [(&str, &str); 26] = [
    ("num_requests_running", "gauge"),
    ("num_requests_waiting", "gauge"),
    ("kv_cache_usage_perc", "gauge"),
    ("cache_config_info", "gauge"),
    ("engine_sleep_state", "gauge"),
    ("prompt_tokens_total", "counter"),
    ("prompt_tokens_cached_total", "counter"),
    ("generation_tokens_total", "counter"),
    ("request_success_total", "counter"),
    ("num_preemptions_total", "counter"),
    ("prefix_cache_queries_total", "counter"),
    ("prefix_cache_hits_total", "counter"),
    ("time_to_first_token_seconds", "histogram"),
    ("inter_token_latency_seconds", "histogram"),
    ("request_time_per_output_token_seconds", "histogram"),
    ("e2e_request_latency_seconds", "histogram"),
    ("request_queue_time_seconds", "histogram"),
    ("request_prefill_time_seconds", "histogram"),
    ("request_decode_time_seconds", "histogram"),
    ("request_inference_time_seconds", "histogram"),
    ("request_prompt_tokens", "histogram"),
    ("request_generation_tokens", "histogram"),
    ("request_prefill_kv_computed_tokens", "histogram"),
    ("request_params_n", "histogram"),
    ("request_params_max_tokens", "histogram"),
    ("request_max_num_generation_tokens", "histogram"),
];
/// Names that vLLM has not.
const OWN: [(&str, &str); 7] = [
    ("prompt_tokens_computed_total", "counter"),
    ("device_wait_share", "gauge"),
    ("device_busy_seconds_total", "counter"),
    ("device_waited_seconds_total", "counter"),
    ("engine_steps_total", "counter"),
    ("http_requests_total", "counter"),
    ("requests_refused_total", "counter"),
];
const CHAT: &str = "/v1/chat/completions";

/// Prometheus' text format, read: types by family, values by series.
#[derive(Debug, Default)]
struct Scrape {
    types: BTreeMap<String, String>,
    values: BTreeMap<String, f64>,
}

impl Scrape {
    fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                assert!(scrape.types.insert(name.into(), kind.into()).is_none(), "{name} is there twice");
            } else if !line.starts_with("# HELP ") {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let of = |suffix| name.strip_suffix(suffix).and_then(|name| scrape.types.get(name));
                let histogram = ["_bucket", "_sum", "_count"].iter().any(|suffix| of(suffix).is_some());
                assert!(histogram || scrape.types.contains_key(name), "{name} has no type");
                let value: f64 = value.parse().unwrap();
                assert!(scrape.values.insert(series.into(), value).is_none(), "{series} is there twice");
            }
        }
        scrape
    }

    /// The value of the only series of `name` that has all of these labels.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted = |series: &str| {
            series.split('{').next() == Some(name)
                && labels.iter().all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")))
        };
        let found: Vec<_> = self.values.iter().filter(|(series, _)| wanted(series)).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        *found[0].1
    }

    /// Series that can only grow.
    fn growing(&self) -> impl Iterator<Item = (&String, f64)> {
        let gauge = |series: &str| {
            let name = series.split('{').next().unwrap();
            self.types.get(name).is_some_and(|kind| kind == "gauge")
        };
        self.values.iter().filter(move |(series, _)| !gauge(series)).map(|(series, value)| (series, *value))
    }
}

async fn scrape(router: &Router) -> Scrape {
    let answer = get(router, "/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4");
    Scrape::parse(&answer.text())
}

fn hello(n: usize) -> serde_json::Value {
    json!({ "messages": [{ "role": "user", "content": "Hello" }], "n": n, "max_tokens": 50 })
}

fn counted(times: u64) -> EngineStats {
    EngineStats {
        num_waiting: 3,
        num_running: 2,
        used_blocks: 25,
        total_blocks: 100,
        num_queried_tokens: 200 * times,
        num_cached_tokens: 50 * times,
        num_prompt_tokens: 150 * times,
        num_output_tokens: 70 * times,
        num_preemptions: times,
        num_steps: 9 * times,
        device_busy: Duration::from_secs(3) * times as u32,
        device_waited: Duration::from_secs(1) * times as u32,
        finished: FinishCounts { stop_token: 4 * times, stop_string: times, ..FinishCounts::default() },
        ..EngineStats::default()
    }
}

#[tokio::test]
async fn every_name_is_there_with_its_type_and_labels() {
    let options = ServedOptions {
        names: vec!["ti\"ny".into()],
        metrics_alias: Alias::Vllm,
        ..ServedOptions::default()
    };
    let full = || EngineError::QueueFull { requests: 2, max_requests: 2, tokens: 7, max_tokens: 9 };
    let (router, engine) = served(Script { refusal: Some(full), ..Script::default() }, options);
    *engine.stats.lock().unwrap() = counted(1);
    assert_eq!(post(&router, CHAT, &hello(1)).await.status, 429);
    let scraped = scrape(&router).await;
    let page = include_str!("../../../../docs/metrics.md");
    for (name, kind) in CORE.into_iter().chain(OWN) {
        for prefix in ["nvllm", "vllm"] {
            let known = scraped.types.get(&format!("{prefix}:{name}"));
            assert_eq!(known.map(String::as_str), Some(kind), "{prefix}:{name}");
        }
        assert!(page.contains(&format!("`{name}`")), "docs/metrics.md has no {name}");
    }
    let labels = ["engine=\"0\"", "model_name=\"ti\\\"ny\""];
    let labelled = |series: &str| labels.iter().all(|label| series.contains(label));
    let others: Vec<_> = scraped.values.keys().filter(|series| !labelled(series)).collect();
    assert!(others.iter().all(|series| series.starts_with("process_")), "{others:?}");
    let resident = scraped.values.get("process_resident_memory_bytes");
    assert!(!cfg!(target_os = "linux") || resident.is_some_and(|bytes| *bytes > 0.0));
}

/// Dashboards add up buckets of several engines.
#[tokio::test]
async fn the_bounds_of_the_first_token_are_vllms() {
    let (router, _) = server(Script::default());
    let scraped = scrape(&router).await;
    let of = |series: &String| {
        let labels = series.strip_prefix("nvllm:time_to_first_token_seconds_bucket{")?;
        labels.split_once("le=\"")?.1.split('"').next()?.parse().ok()
    };
    let mut bounds: Vec<f64> = scraped.values.keys().filter_map(of).collect();
    bounds.sort_by(f64::total_cmp);
    let expected = [
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
        40.0, 80.0, 160.0, 640.0, 2560.0,
    ];
    assert_eq!((bounds.pop(), bounds), (Some(f64::INFINITY), expected.to_vec()));
}

#[tokio::test]
async fn without_an_alias_there_are_our_names_alone() {
    let (router, _) = server(Script::default());
    let scraped = scrape(&router).await;
    assert!(scraped.types.keys().all(|name| !name.starts_with("vllm:")));
}

#[tokio::test]
async fn what_the_engine_counts_is_read_when_it_is_asked_for() {
    let (router, engine) = server(Script::default());
    *engine.stats.lock().unwrap() = counted(1);
    let scraped = scrape(&router).await;
    for (name, labels, value) in [
        ("num_requests_running", &[][..], 2.0),
        ("num_requests_waiting", &[], 3.0),
        ("kv_cache_usage_perc", &[], 0.25),
        ("prompt_tokens_total", &[], 200.0),
        ("prompt_tokens_cached_total", &[], 50.0),
        ("prompt_tokens_computed_total", &[], 150.0),
        ("generation_tokens_total", &[], 70.0),
        ("num_preemptions_total", &[], 1.0),
        ("prefix_cache_queries_total", &[], 200.0),
        ("prefix_cache_hits_total", &[], 50.0),
        ("request_success_total", &[("finished_reason", "stop")], 5.0),
        ("request_success_total", &[("finished_reason", "abort")], 0.0),
        ("cache_config_info", &[("block_size", "16"), ("num_gpu_blocks", "100")], 1.0),
        ("engine_sleep_state", &[("sleep_state", "awake")], 1.0),
        ("device_wait_share", &[], 0.25),
    ] {
        assert_eq!(scraped.value(&format!("nvllm:{name}"), labels), value, "{name}");
    }
}

#[tokio::test]
async fn every_choice_is_measured_once() {
    let (router, _) = server(Script::default());
    for stream in [false, true] {
        let mut body = hello(2);
        body["stream"] = json!(stream);
        assert_eq!(post(&router, CHAT, &body).await.status, 200);
    }
    // What runs nothing is no request.
    post(&router, "/tokenize", &json!({ "prompt": "Once upon" })).await;
    post(&router, "/v1/chat/completions/render", &hello(1)).await;
    let scraped = scrape(&router).await;
    let said = tokens("It is Paris.").len() as f64;
    for (name, count, sum) in [
        ("time_to_first_token_seconds", 4.0, None),
        ("inter_token_latency_seconds", 4.0 * (said - 1.0), None),
        ("request_time_per_output_token_seconds", 4.0, Some(4.0 * 0.003 / (said - 1.0))),
        ("e2e_request_latency_seconds", 4.0, Some(4.0 * 0.005)),
        ("request_queue_time_seconds", 4.0, Some(4.0 * 0.001)),
        ("request_prefill_time_seconds", 4.0, Some(4.0 * 0.001)),
        ("request_decode_time_seconds", 4.0, Some(4.0 * 0.003)),
        ("request_inference_time_seconds", 4.0, Some(4.0 * 0.004)),
        ("request_generation_tokens", 4.0, Some(4.0 * said)),
        ("request_prompt_tokens", 4.0, None),
        ("request_max_num_generation_tokens", 2.0, Some(2.0 * said)),
        ("request_params_n", 2.0, Some(4.0)),
        ("request_params_max_tokens", 2.0, Some(100.0)),
    ] {
        let value = |suffix: &str| scraped.value(&format!("nvllm:{name}{suffix}"), &[]);
        assert_eq!(value("_count"), count, "{name}");
        assert!(sum.is_none_or(|sum| (value("_sum") - sum).abs() < 1e-9), "{name}: {}", value("_sum"));
    }
}

#[tokio::test]
async fn a_failure_has_no_latency() {
    let script = Script { reason: FinishReason::Failed, error: Some("boom".into()), ..Script::default() };
    let (router, _) = server(script);
    assert_eq!(post(&router, CHAT, &hello(1)).await.status, 500);
    let scraped = scrape(&router).await;
    assert_eq!(scraped.value("nvllm:e2e_request_latency_seconds_count", &[]), 0.0);
    let labels = [("handler", CHAT), ("status", "500"), ("method", "POST")];
    assert_eq!(scraped.value("nvllm:http_requests_total", &labels), 1.0);
}

#[tokio::test]
async fn counters_never_go_down() {
    let (router, engine) = server(Script::default());
    let mut before = Scrape::default();
    for times in 1..4 {
        *engine.stats.lock().unwrap() = counted(times);
        assert_eq!(post(&router, CHAT, &hello(1)).await.status, 200);
        let now = scrape(&router).await;
        for (series, value) in before.growing() {
            assert!(now.values.get(series).is_some_and(|new| *new >= value), "{series} was {value}");
        }
        assert!(now.growing().count() > CORE.len());
        before = now;
    }
}

#[tokio::test]
async fn refusals_are_counted_apart_by_reason() {
    let full = || EngineError::QueueFull { requests: 2, max_requests: 2, tokens: 7, max_tokens: 9 };
    let (router, _) = server(Script { refusal: Some(full), ..Script::default() });
    post(&router, CHAT, &hello(1)).await;
    post(&router, CHAT, &json!({})).await;
    let scraped = scrape(&router).await;
    assert_eq!(scraped.value("nvllm:requests_refused_total", &[]), 1.0, "a bad request is none");
    assert_eq!(scraped.value("nvllm:requests_refused_total", &[("reason", "queue_full")]), 1.0);
    assert_eq!(scraped.value("nvllm:request_params_n_count", &[]), 0.0);
    for (health, reason) in [(Health::Loading, "loading"), (Health::Draining, "draining")] {
        let (router, _) = server(Script { health, ..Script::default() });
        post(&router, CHAT, &hello(1)).await;
        get(&router, "/health/ready").await;
        let scraped = scrape(&router).await;
        assert_eq!(scraped.value("nvllm:requests_refused_total", &[("reason", reason)]), 1.0);
    }
}

#[tokio::test]
async fn a_refusal_is_what_was_not_taken_and_not_what_was_cut_off() {
    let (router, _) = server(Script { reason: FinishReason::Aborted, ..Script::default() });
    assert_eq!(post(&router, CHAT, &hello(1)).await.status, 503);
    let scraped = scrape(&router).await;
    let refused = |series: &&String| series.starts_with("nvllm:requests_refused_total");
    assert_eq!(scraped.values.keys().find(refused), None);
    let failed = Script { health: Health::Failed("gone".into()), ..Script::default() };
    for (script, reason) in [(failed, "failed"), (Script { full: true, ..Script::default() }, "queue_full")] {
        let (router, _) = server(script);
        post(&router, "/v1/messages", &hello(1)).await;
        let scraped = scrape(&router).await;
        assert_eq!(scraped.value("nvllm:requests_refused_total", &[("reason", reason)]), 1.0);
    }
}

#[tokio::test]
async fn a_body_that_is_not_taken_is_counted() {
    let (router, _) = server(Script::default());
    let request = HttpRequest::post(CHAT).body(Body::from(vec![0; (32 << 20) + 1])).unwrap();
    assert_eq!(call(&router, request).await.status, 413);
    let labels = [("handler", CHAT), ("status", "413")];
    assert_eq!(scrape(&router).await.value("nvllm:http_requests_total", &labels), 1.0);
}

#[tokio::test]
async fn probes_and_made_up_words_make_no_series() {
    let (router, _) = server(Script::default());
    for path in ["/health", "/ping", "/version", "/load", "/v1/loads", "/metrics"] {
        get(&router, path).await;
    }
    for path in ["/made/up", "/made/up/too"] {
        call(&router, HttpRequest::builder().method("BREW").uri(path).body(Body::empty()).unwrap()).await;
    }
    let scraped = scrape(&router).await;
    let labels = [("handler", "none"), ("status", "404"), ("method", "other")];
    assert_eq!(scraped.value("nvllm:http_requests_total", &labels), 2.0);
    assert_eq!(scraped.value("nvllm:http_requests_total", &[]), 2.0, "the only series");
}

#[tokio::test]
async fn head_is_answered_as_get_is() {
    let (router, _) = server(Script::default());
    let answer = call(&router, HttpRequest::head("/metrics").body(Body::empty()).unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.bytes.len()), (200, 0));
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4");
}

#[tokio::test]
async fn the_load_is_what_has_not_ended() {
    let (router, _) = server(Script { endless: true, ..Script::default() });
    assert_eq!(get(&router, "/load").await.json(), json!({ "server_load": 0 }));
    let mut body = hello(1);
    body["stream"] = json!(true);
    let request = HttpRequest::post(CHAT).body(Body::from(body.to_string())).unwrap();
    let stream = router.clone().oneshot(request).await.unwrap();
    assert_eq!(get(&router, "/load").await.json(), json!({ "server_load": 1 }));
    drop(stream);
    assert_eq!(get(&router, "/load").await.json(), json!({ "server_load": 0 }));
}

#[tokio::test]
async fn a_client_that_goes_away_is_counted() {
    let (router, _) = server(Script { endless: true, ..Script::default() });
    let request = HttpRequest::post(CHAT).body(Body::from(hello(1).to_string())).unwrap();
    let mut answer = Box::pin(router.clone().oneshot(request));
    let mut context = Context::from_waker(Waker::noop());
    assert!(answer.as_mut().poll(&mut context).is_pending());
    drop(answer);
    let labels = [("handler", CHAT), ("status", "499")];
    assert_eq!(scrape(&router).await.value("nvllm:http_requests_total", &labels), 1.0);
}
