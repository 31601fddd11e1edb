//! Who is let in, and what every answer carries.

use std::sync::Arc;

use nvllm_serve::{ApiKeys, ServerOptions};
use serde_json::json;

use crate::support::Script;
use crate::wire::{Running, chat, get, post};

fn guarded(lines: &str) -> Running {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, lines).unwrap();
    let api_keys = Arc::new(ApiKeys::new(&["sk-plain".into()], Some(file.path())).unwrap());
    Running::new(Script::default(), ServerOptions { api_keys, ..ServerOptions::default() })
}

#[test]
fn a_key_opens_and_its_name_is_the_tenant() {
    let server = guarded("alice:sk-alice\nnew:sk-new\n");
    let body = json!({ "model": "tiny", "prompt": "hi" });
    for (header, tenant) in [
        ("Authorization: Bearer sk-alice\r\n", Some("alice")),
        ("authorization: bearer  sk-alice\r\n", Some("alice")),
        ("x-api-key: sk-alice\r\n", Some("alice")),
        ("Authorization: Bearer sk-plain\r\n", None),
        ("Authorization: Bearer sk-new\r\n", Some("new")),
    ] {
        // A large body is worked on elsewhere, and is no less its tenant's.
        let large = json!({ "model": "tiny", "prompt": "hi", "user": "x".repeat(100_000) });
        for body in [&body, &large] {
            let answer = server.send(&post("/v1/completions", header, body)).answer();
            assert_eq!(answer.status, 200, "{header}: {}", answer.body);
            assert_eq!(server.engine.last().tenant.as_deref(), tenant, "{header}");
            // However late the key got its name, the engine knows whose it is.
            let known = server.engine.tenants.lock().unwrap();
            assert!(tenant.is_none_or(|tenant| known.contains(tenant)), "{known:?}");
        }
    }
}

#[test]
fn without_a_key_there_is_no_answer_but_of_probes() {
    let server = guarded("alice:sk-alice\n");
    let wrong = ["", "Authorization: Bearer sk-bob\r\n", "Authorization: sk-alice\r\n", "x-api-key: \r\n"];
    for header in wrong {
        let answer = server.send(&post("/v1/chat/completions", header, &json!({}))).answer();
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{header}");
        assert_eq!(answer.json()["error"]["type"], "authentication_error");
        let answer = server.send(&post("/v1/messages", header, &json!({}))).answer();
        assert_eq!((answer.status, &answer.json()["type"]), (401, &json!("error")));
        assert_eq!(answer.json()["error"]["type"], "authentication_error");
    }
    // The page comes without a key: it asks for one.
    for path in ["/health", "/health/ready", "/ping", "/version", "/", "/page/app.js"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    for path in ["/v1/models", "/tokenizer_info", "/nowhere"] {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
    assert!(server.engine.asked.lock().unwrap().is_empty());
}

#[test]
fn an_answer_carries_the_request_id_and_its_own_is_made_of_it() {
    let server = Running::new(Script::default(), ServerOptions::default());
    let body = json!({ "model": "tiny", "prompt": "hi" });
    let answer = server.send(&post("/v1/completions", "X-Request-Id: abc-1\r\n", &body)).answer();
    assert_eq!(answer.header("x-request-id"), Some("abc-1"));
    assert_eq!(answer.json()["id"], "cmpl-abc-1");
    // Errors too, with one of ours if the client's would spoil a log.
    let answer = server.send(&get("/nowhere", "X-Request-Id: a b\r\n")).answer();
    assert_eq!((answer.status, answer.header("x-request-id").map(str::len)), (404, Some(32)));
}

#[test]
fn web_pages_of_allowed_origins_may_call() {
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: here\r\nOrigin: https://a.example\r\n\
                     Access-Control-Request-Method: POST\r\n\
                     Access-Control-Request-Headers: authorization,content-type\r\n\r\n";
    // Asked without a key, as browsers do.
    let server = guarded("");
    let answer = server.send(preflight).answer();
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
    // By name: `*` does not cover keys.
    let allowed = answer.header("access-control-allow-headers");
    assert_eq!(allowed, Some("authorization,content-type"));
    let allowed_origins = vec!["https://a.example".into()];
    let options = ServerOptions { allowed_origins, ..ServerOptions::default() };
    let server = Running::new(Script::default(), options);
    let origin = |origin: &str| {
        let answer = server.send(&get("/version", &format!("Origin: {origin}\r\n"))).answer();
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(origin("https://a.example").as_deref(), Some("https://a.example"));
    assert_eq!(origin("https://b.example"), None);
}

#[test]
fn a_refused_chat_says_the_same_with_and_without_a_body() {
    let server = guarded("");
    // The key is looked at first: nothing of the body is read.
    let whole = chat(&json!({}));
    let answer = server.send(&whole[..whole.len() - 5]).answer();
    assert_eq!(answer.status, 401);
}
