//! What routers ask a worker about itself.

use std::sync::atomic::Ordering;

use nvllm_engine::{EngineStats, Health};
use serde_json::{Value, json};

use crate::support::{Script, get, post, server};

#[tokio::test]
async fn a_router_learns_the_name_under_both_paths() {
    let (router, _) = server(Script::default());
    for path in ["/server_info", "/get_server_info"] {
        let info = get(&router, path).await.json();
        assert_eq!(info["served_model_name"], "tiny", "{path}");
        assert_eq!((&info["max_model_len"], &info["max_num_seqs"]), (&json!(4096), &json!(8)));
        assert!(
            info["model_path"].is_string() && info["device"].is_string() && info["version"].is_string(),
            "{info}"
        );
    }
    for path in ["/model_info", "/get_model_info"] {
        let info = get(&router, path).await.json();
        assert_eq!((&info["is_generation"], &info["served_model_name"]), (&json!(true), &json!("tiny")));
        assert!(info["model_path"].is_string() && info["vocab_size"].is_u64(), "{info}");
    }
    assert_eq!(get(&router, "/version").await.status, 200, "else a router takes it for sglang");
}

#[tokio::test]
async fn a_server_that_loads_tells_its_name() {
    let (router, _) = server(Script { health: Health::Loading, ..Script::default() });
    let info = get(&router, "/server_info").await.json();
    assert_eq!((&info["served_model_name"], &info["max_model_len"]), (&json!("tiny"), &Value::Null));
    assert_eq!(get(&router, "/v1/loads").await.json()["loads"][0]["max_running_requests"], 0);
}

#[tokio::test]
async fn the_prefix_cache_is_reset_by_any_of_its_names() {
    let (router, engine) = server(Script::default());
    for path in ["/reset_prefix_cache", "/flush_cache"] {
        assert_eq!(post(&router, path, &json!({})).await.status, 200, "{path}");
    }
    assert_eq!(get(&router, "/flush_cache").await.status, 200);
    assert_eq!(engine.num_resets.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn loads_are_the_engines_counts() {
    let (router, engine) = server(Script::default());
    *engine.stats.lock().unwrap() = EngineStats {
        num_waiting: 3,
        num_waiting_tokens: 70,
        num_running: 2,
        used_blocks: 25,
        total_blocks: 100,
        num_queried_tokens: 200,
        num_cached_tokens: 50,
        ..EngineStats::default()
    };
    let loads = get(&router, "/v1/loads").await.json();
    assert_eq!(
        loads["loads"],
        json!([{
            "dp_rank": 0, "num_running_reqs": 2, "num_waiting_reqs": 3, "num_waiting_uncached_tokens": 70,
            "num_total_reqs": 5, "num_used_tokens": 400, "max_total_num_tokens": 1600, "token_usage": 0.25,
            "gen_throughput": 0.0, "cache_hit_rate": 0.25, "utilization": 0.25, "max_running_requests": 8,
        }])
    );
}
