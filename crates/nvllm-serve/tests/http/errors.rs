//! Refusals: each names the parameter, in one form, with the status that clients act upon.

use axum::body::Body;
use axum::http::Request as HttpRequest;
use nvllm_engine::{EngineError, Health};
use serde_json::{Value, json};

use crate::support::{Script, call, get, post, post_bytes, server};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Fields of a chat that are refused, and the parameter that the refusal names.
fn bad_chats() -> Vec<(Value, &'static str)> {
    vec![
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": "hi" }), "messages"),
        (json!({ "messages": [{ "content": "hi" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "wizard", "content": "hi" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "user" }] }), "messages[0].content"),
        (json!({ "messages": [{ "role": "user", "content": 5 }] }), "messages[0].content"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }] }),
            "messages[0].content[0].type",
        ),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "top_p": 0 }), "top_p"),
        (json!({ "top_k": -2 }), "top_k"),
        (json!({ "min_p": 2 }), "min_p"),
        (json!({ "presence_penalty": 3 }), "presence_penalty"),
        (json!({ "repetition_penalty": 0 }), "repetition_penalty"),
        (json!({ "logit_bias": { "x": 1 } }), "logit_bias"),
        (json!({ "logit_bias": { "99999999": 1 } }), "logit_bias"),
        (json!({ "stop_token_ids": [99_999_999] }), "stop_token_ids"),
        (json!({ "n": 0 }), "n"),
        (json!({ "best_of": 3 }), "best_of"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "max_completion_tokens": -5 }), "max_completion_tokens"),
        (json!({ "stop": vec!["x"; 100] }), "stop"),
        (json!({ "stop": [""] }), "stop[0]"),
        (json!({ "stop": 5 }), "stop"),
        (json!({ "logprobs": true, "top_logprobs": 50 }), "top_logprobs"),
        (json!({ "top_logprobs": 5 }), "top_logprobs"),
        (json!({ "stream_options": { "include_usage": true } }), "stream_options"),
        (json!({ "stream": "yes" }), "stream"),
        (json!({ "seed": 1.5 }), "seed"),
        (json!({ "cache_salt": "a/b" }), "cache_salt"),
        (json!({ "timeout": 0 }), "timeout"),
        (json!({ "priority": -1 }), "priority"),
        (json!({ "stop_token_ids": (0..300).collect::<Vec<_>>() }), "stop_token_ids"),
        (json!({ "allowed_token_ids": [] }), "allowed_token_ids"),
        (json!({ "allowed_token_ids": [99_999_999] }), "allowed_token_ids"),
        (json!({ "bad_words": ["x".repeat(1000)] }), "bad_words[0]"),
        (json!({ "n": 2_000_000_000 }), "n"),
        (json!({ "n": i64::MAX }), "n"),
        (json!({ "stream": true, "prompt_logprobs": 1 }), "prompt_logprobs"),
        (json!({ "add_special_tokens": true }), "add_special_tokens"),
        (json!({ "truncation_side": "right" }), "truncation_side"),
        (json!({ "reasoning_effort": "huge" }), "reasoning_effort"),
        (json!({ "ebnf": "root ::= \"a\"" }), "ebnf"),
        (json!({ "continue_final_message": true, "add_generation_prompt": true }), "continue_final_message"),
    ]
}

#[tokio::test]
async fn a_bad_chat_is_refused_by_name_and_nothing_runs() {
    let (router, engine) = server(Script::default());
    for (fields, param) in bad_chats() {
        let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }] });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = post(&router, CHAT, &body).await;
        assert_eq!(answer.status, 400, "{fields}: {}", answer.text());
        assert_eq!(answer.headers["content-type"], "application/json");
        let error = &answer.json()["error"];
        assert_eq!(error["param"], param, "{fields}: {error}");
        assert_eq!((&error["type"], &error["code"]), (&json!("invalid_request_error"), &json!(400)));
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(param), "{fields}: {message}");
    }
    assert!(engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_bad_completion_is_refused_by_name() {
    let (router, _) = server(Script::default());
    for (body, param) in [
        (json!({}), "prompt"),
        (json!({ "prompt": [] }), "prompt"),
        (json!({ "prompt": 5 }), "prompt"),
        (json!({ "prompt": "a", "logprobs": -1 }), "logprobs"),
        (json!({ "prompt": "a", "suffix": "b" }), "suffix"),
        (json!({ "prompt": "a", "best_of": 2 }), "best_of"),
        (json!({ "prompt": vec!["a"; 2000], "n": 3 }), "n"),
        (json!({ "prompt": vec![5; 4000], "echo": true, "logprobs": 20, "n": 64 }), "logprobs"),
    ] {
        let answer = post(&router, COMPLETIONS, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"]["param"].clone()),
            (400, json!(param)),
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_body_that_is_no_object_is_told_so() {
    let (router, _) = server(Script::default());
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in ["", "{", "[]", "5", "\"a\"", "\u{0}", &deep, "{\"messages\": [{}, }"] {
        let answer = post_bytes(&router, CHAT, body.to_owned()).await;
        let error = answer.json();
        assert_eq!((answer.status.as_u16(), &error["error"]["param"]), (400, &json!("body")), "{error}");
    }
}

#[tokio::test]
async fn another_model_is_not_found() {
    let (router, _) = server(Script::default());
    let body = json!({ "model": "gpt", "messages": [{ "role": "user", "content": "hi" }] });
    let answer = post(&router, CHAT, &body).await;
    let error = answer.json();
    assert_eq!((answer.status.as_u16(), &error["error"]["param"]), (404, &json!("model")));
    assert!(error["error"]["message"].as_str().unwrap().contains("tiny"), "{error}");
    assert_eq!(get(&router, "/v1/models/gpt").await.status, 404);
    assert_eq!(get(&router, "/v1/models/tiny").await.json()["id"], "tiny");
}

#[tokio::test]
async fn a_full_queue_is_429_with_a_short_wait() {
    let full = || EngineError::QueueFull { requests: 2, max_requests: 2, tokens: 7, max_tokens: 9 };
    let (router, _) = server(Script { refusal: Some(full), ..Script::default() });
    let answer = post(&router, COMPLETIONS, &json!({ "prompt": "a" })).await;
    assert_eq!(answer.status, 429);
    let wait: u32 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
}

#[tokio::test]
async fn a_stream_that_is_refused_does_not_begin() {
    let full = || EngineError::QueueFull { requests: 2, max_requests: 2, tokens: 7, max_tokens: 9 };
    let (router, _) = server(Script { refusal: Some(full), ..Script::default() });
    let messages = json!([{ "role": "user", "content": "hi" }]);
    for (path, body) in [
        (CHAT, json!({ "messages": messages })),
        (COMPLETIONS, json!({ "prompt": "a" })),
        ("/v1/responses", json!({ "input": "a" })),
        ("/v1/messages", json!({ "messages": messages, "max_tokens": 5 })),
    ] {
        for (field, value, status) in
            [("temperature", json!(-1), 400), ("model", json!("gpt"), 404), ("stream", json!(true), 429)]
        {
            let mut body = body.clone();
            body["stream"] = json!(true);
            body[field] = value;
            let answer = post(&router, path, &body).await;
            assert_eq!(answer.status, status, "{path}: {}", answer.text());
            assert_eq!(answer.headers["content-type"], "application/json");
            assert!(answer.json()["error"]["message"].is_string(), "{path}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_full_engine_refuses_before_it_looks_at_a_body() {
    let (router, _) = server(Script { full: true, ..Script::default() });
    for path in [CHAT, COMPLETIONS, "/v1/responses", "/v1/messages", "/v1/embeddings"] {
        let answer = post_bytes(&router, path, "{").await;
        assert_eq!(answer.status, 429, "{path}");
        assert!(answer.headers.contains_key("retry-after"));
        assert!(answer.text().contains("--max-queued-requests"), "{}", answer.text());
    }
    // What runs nothing needs no room: routers ask it before each request.
    let chat = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    for (path, body) in [
        ("/tokenize", json!({ "prompt": "a" })),
        ("/v1/chat/completions/render", chat),
        ("/v1/completions/render", json!({ "prompt": "a" })),
    ] {
        assert_eq!(post(&router, path, &body).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_large_body_holds_up_nobody() {
    let text = "words ".repeat(20_000);
    let (router, _) = server(Script::default());
    let chat = json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": 5 });
    for (path, body) in [
        (CHAT, &chat),
        ("/v1/chat/completions/render", &chat),
        (COMPLETIONS, &json!({ "prompt": text })),
        ("/v1/completions/render", &json!({ "prompt": text })),
        ("/v1/responses", &json!({ "input": text })),
        ("/v1/responses/input_tokens", &json!({ "input": text })),
        ("/v1/messages", &chat),
        ("/v1/messages/count_tokens", &chat),
        ("/v1/embeddings", &json!({ "input": text })),
        ("/tokenize", &json!({ "prompt": text })),
        ("/detokenize", &json!({ "tokens": vec![5; 60_000] })),
    ] {
        let mut large = Box::pin(post(&router, path, body));
        // One thread runs both: what the first does on it is done before the second begins.
        tokio::select! {
            biased;
            _ = &mut large => panic!("{path} keeps the thread"),
            ready = get(&router, "/health/ready") => assert_eq!(ready.status, 200),
        }
        let answer = large.await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_panic_is_answered() {
    let (router, _) = server(Script { refusal: Some(|| panic!("of a test")), ..Script::default() });
    for padding in [0, 100_000] {
        let body = json!({ "prompt": "a", "user": "x".repeat(padding) });
        let answer = post(&router, COMPLETIONS, &body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["type"]), (500, &json!("api_error")));
        assert!(!answer.text().contains("of a test"));
    }
    let body = json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 5 });
    let answer = post(&router, "/v1/messages", &body).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["type"]), (500, &json!("error")));
}

#[tokio::test]
async fn a_path_that_is_no_text_is_refused_in_json() {
    let (router, _) = server(Script::default());
    for (method, path) in [
        ("GET", "/v1/models/%FF"),
        ("GET", "/v1/responses/%FF"),
        ("DELETE", "/v1/responses/%FF"),
        ("POST", "/v1/responses/%FF/cancel"),
    ] {
        let request = HttpRequest::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let answer = call(&router, request).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!("path")));
        assert!(answer.text().contains(path), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_server_that_is_not_ready_says_why() {
    let failed = Health::Failed("the device is gone".into());
    for (health, live, status) in
        [(Health::Loading, 200, 503), (Health::Draining, 200, 503), (failed, 503, 500)]
    {
        let (router, _) = server(Script { health, ..Script::default() });
        let answer = post(&router, COMPLETIONS, &json!({ "prompt": "a" })).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
        // It helps to wait, but not for what has failed for good.
        assert_eq!(answer.headers.contains_key("retry-after"), status == 503);
        assert!(!get(&router, "/health").await.headers.contains_key("retry-after"));
        assert_eq!(get(&router, "/health/ready").await.status, 503);
        assert_eq!(get(&router, "/health").await.status.as_u16(), live);
    }
}

#[tokio::test]
async fn a_route_that_is_not_there_says_so_in_json() {
    let (router, _) = server(Script::default());
    for (path, status) in [("/v1/nothing", 404), (CHAT, 405)] {
        let answer = get(&router, path).await;
        assert_eq!(answer.status.as_u16(), status);
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains(path));
    }
}
