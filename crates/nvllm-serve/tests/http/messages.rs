//! `/v1/messages`. The names of the tests are what Anthropic's clients need.

use nvllm_engine::{EngineError, FinishReason, Health};
use serde_json::{Value, json};

use crate::support::{Answer, Script, get, post, post_bytes, prompt_of, server, tokens};

const PATH: &str = "/v1/messages";

fn with(fields: &Value) -> Value {
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    let mut body = json!({ "model": "tiny", "max_tokens": 50, "messages": messages });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// Fails unless an error has Anthropic's form.
fn refusal(answer: &Answer, status: u16, kind: &str) -> String {
    let body = answer.json();
    assert_eq!(answer.status.as_u16(), status, "{body}");
    assert_eq!(answer.headers["content-type"], "application/json");
    let message = body["error"]["message"].as_str().unwrap();
    assert_eq!(body, json!({ "type": "error", "error": { "type": kind, "message": message } }));
    message.to_owned()
}

#[tokio::test]
async fn an_answer_is_whole_and_its_input_excludes_what_was_cached() {
    let (router, engine) = server(Script::default());
    let answer = post(&router, PATH, &with(&json!({ "temperature": 0.5, "top_k": 3, "seed": 7 }))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    let asked = engine.last();
    assert!(body["id"].as_str().unwrap().starts_with("msg_"));
    let expected = json!({
        "id": body["id"], "type": "message", "role": "assistant", "model": "tiny",
        "content": [{ "type": "text", "text": "It is Paris." }], "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {
            "input_tokens": asked.prompt.len() - 1, "cache_read_input_tokens": 1,
            "cache_creation_input_tokens": 0, "output_tokens": tokens("It is Paris.").len(),
        },
    });
    assert_eq!(body, expected);
    assert_eq!((asked.max_tokens, asked.sampling.top_k, asked.sampling.seed), (Some(50), 3, 7));
}

#[tokio::test]
async fn a_stream_has_all_events_in_order_and_the_usage_at_its_end() {
    let (router, engine) = server(Script::default());
    let events = post(&router, PATH, &with(&json!({ "stream": true }))).await.named_events();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let deltas = vec!["content_block_delta"; tokens("It is Paris.").len()];
    let expected: Vec<_> = ["message_start", "content_block_start", "ping"]
        .into_iter()
        .chain(deltas)
        .chain(["content_block_stop", "message_delta", "message_stop"])
        .collect();
    assert_eq!(kinds, expected);
    let prompt = engine.last().prompt.len();
    let message = &events[0]["message"];
    assert_eq!((&message["content"], &message["stop_reason"]), (&json!([]), &Value::Null));
    assert_eq!(message["usage"]["input_tokens"], prompt);
    assert_eq!(events[1]["content_block"], json!({ "type": "text", "text": "" }));
    let deltas = events.iter().filter(|event| event["type"] == "content_block_delta");
    let text: String = deltas
        .map(|event| {
            assert_eq!((&event["index"], &event["delta"]["type"]), (&json!(0), &json!("text_delta")));
            event["delta"]["text"].as_str().unwrap()
        })
        .collect();
    assert_eq!(text, "It is Paris.");
    let usage = json!({
        "input_tokens": prompt - 1, "cache_read_input_tokens": 1, "cache_creation_input_tokens": 0,
        "output_tokens": tokens("It is Paris.").len(),
    });
    let delta = json!({ "stop_reason": "end_turn", "stop_sequence": null });
    let expected = json!({ "type": "message_delta", "delta": delta, "usage": usage });
    assert_eq!(events[events.len() - 2], expected);
    assert_eq!(events.last(), Some(&json!({ "type": "message_stop" })));
}

#[tokio::test]
async fn an_answer_cut_at_max_tokens_says_so() {
    let (router, _) = server(Script::default());
    let body = post(&router, PATH, &with(&json!({ "max_tokens": 2 }))).await.json();
    assert_eq!((&body["stop_reason"], &body["usage"]["output_tokens"]), (&json!("max_tokens"), &json!(2)));
    let events = post(&router, PATH, &with(&json!({ "max_tokens": 2, "stream": true }))).await.named_events();
    assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "max_tokens");
}

#[tokio::test]
async fn a_coding_clients_request_is_taken() {
    let (router, engine) = server(Script::default());
    let chat = json!({ "enable_thinking": false, "messages": [
        { "role": "system", "content": "One.\nTwo." }, { "role": "user", "content": "Hi\nthere" },
        { "role": "assistant", "content": "Yes?" }, { "role": "user", "content": "Go on." },
    ] });
    post(&router, "/v1/chat/completions", &chat).await;
    let expected = prompt_of(&engine.last());
    let cache_control = json!({ "type": "ephemeral" });
    let body = with(&json!({
        "system": [
            { "type": "text", "text": "One." },
            { "type": "text", "text": "Two.", "cache_control": cache_control },
        ],
        "messages": [
            { "role": "user", "content": [
                { "type": "text", "text": "Hi" },
                { "type": "text", "text": "there", "cache_control": cache_control },
            ] },
            { "role": "assistant", "content": [
                { "type": "thinking", "thinking": "hm", "signature": "s" }, { "type": "text", "text": "Yes?" },
            ] },
            { "role": "user", "content": "Go on." },
        ],
        "metadata": { "user_id": "someone" }, "tools": [], "tool_choice": { "type": "auto" },
        "context_management": { "edits": [] }, "output_config": { "effort": "high" }, "service_tier": "auto",
        "stop_sequences": ["END"], "stream": true,
    }));
    let answer = post(&router, "/v1/messages?beta=true", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(prompt_of(&engine.last()), expected);
    assert_eq!(engine.last().stop, ["END"]);
    let count = post(&router, "/v1/messages/count_tokens?beta=true", &body).await.json();
    assert_eq!(count, json!({ "input_tokens": engine.last().prompt.len() }));
}

#[tokio::test]
async fn tokens_are_counted_without_max_tokens() {
    let (router, engine) = server(Script::default());
    let mut body = with(&json!({ "system": "Be brief." }));
    post(&router, PATH, &body).await;
    body.as_object_mut().unwrap().remove("max_tokens");
    let count = post(&router, "/v1/messages/count_tokens", &body).await.json();
    assert_eq!(count, json!({ "input_tokens": engine.last().prompt.len() }));
}

#[tokio::test]
async fn an_empty_system_message_is_none() {
    let (router, engine) = server(Script::default());
    for fields in [json!({}), json!({ "system": "" }), json!({ "system": [] })] {
        post(&router, PATH, &with(&fields)).await;
    }
    let response = json!({ "input": "Hello", "instructions": "", "enable_thinking": false });
    post(&router, "/v1/responses", &response).await;
    let asked = engine.asked.lock().unwrap();
    assert!(asked.len() == 4 && asked.iter().all(|request| request.prompt == asked[0].prompt));
}

#[tokio::test]
async fn an_assistants_last_message_is_gone_on_with() {
    let (router, engine) = server(Script::default());
    for content in [json!("I think"), json!([{ "type": "text", "text": "I think" }])] {
        let messages =
            json!([{ "role": "user", "content": "Where?" }, { "role": "assistant", "content": content }]);
        let body = post(&router, PATH, &with(&json!({ "messages": messages }))).await.json();
        assert!(prompt_of(&engine.last()).ends_with("I think"));
        assert_eq!(body["content"][0]["text"], "It is Paris.", "only what is new");
    }
}

#[tokio::test]
async fn thinking_is_turned_on_and_off() {
    let (router, engine) = server(Script::default());
    let mut prompts = Vec::new();
    for thinking in [json!({ "type": "enabled", "budget_tokens": 1024 }), json!({ "type": "disabled" })] {
        let answer = post(&router, PATH, &with(&json!({ "thinking": thinking }))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        prompts.push(engine.last().prompt);
    }
    assert_ne!(prompts[0], prompts[1]);
}

#[tokio::test]
async fn what_cannot_be_met_is_refused_by_name_and_nothing_runs() {
    let (router, engine) = server(Script::default());
    let block = |block: Value| json!({ "messages": [{ "role": "user", "content": [block] }] });
    for (fields, param) in [
        (json!({ "max_tokens": null }), "max_tokens"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "messages": null }), "messages"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": [{ "content": "hi" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "user" }] }), "messages[0].content"),
        (json!({ "messages": [{ "role": "user", "content": 5 }] }), "messages[0].content"),
        (block(json!({ "type": "image", "source": {} })), "messages[0].content[0].type"),
        (json!({ "system": [{ "type": "image" }] }), "system[0].type"),
        (json!({ "system": 5 }), "system"),
        (json!({ "stop_sequences": [""] }), "stop_sequences[0]"),
        (json!({ "stop_sequences": vec!["x"; 100] }), "stop_sequences"),
        (json!({ "tool_choice": { "type": "any" } }), "tool_choice"),
        (json!({ "thinking": { "type": "maybe" } }), "thinking.type"),
        (json!({ "output_config": { "format": { "type": "json_schema" } } }), "output_config.format"),
        (json!({ "container": "c" }), "container"),
        (json!({ "mcp_servers": [{}] }), "mcp_servers"),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "top_p": 0 }), "top_p"),
        (json!({ "n": 2 }), "n"),
    ] {
        let answer = post(&router, PATH, &with(&fields)).await;
        let message = refusal(&answer, 400, "invalid_request_error");
        assert!(message.contains(param), "{fields}: {message}");
    }
    assert!(engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn every_error_has_anthropics_form_whatever_made_it() {
    let (router, _) = server(Script::default());
    refusal(&post_bytes(&router, PATH, "{").await, 400, "invalid_request_error");
    refusal(&post(&router, PATH, &with(&json!({ "model": "gpt" }))).await, 404, "not_found_error");
    refusal(&get(&router, PATH).await, 405, "invalid_request_error");
    refusal(&get(&router, "/v1/messages/batches").await, 404, "not_found_error");
    let (router, _) = server(Script { health: Health::Loading, ..Script::default() });
    let answer = post(&router, PATH, &with(&json!({}))).await;
    refusal(&answer, 503, "overloaded_error");
    assert_eq!(answer.headers["retry-after"], "1");
    let full = || EngineError::QueueFull { requests: 2, max_requests: 2, tokens: 7, max_tokens: 9 };
    let (router, _) = server(Script { refusal: Some(full), ..Script::default() });
    let answer = post(&router, PATH, &with(&json!({}))).await;
    refusal(&answer, 429, "rate_limit_error");
    assert_eq!(answer.headers["retry-after"], "1");
    // Others' keep theirs.
    assert!(get(&router, "/v1/messagesx").await.json()["error"]["code"].is_u64());
}

#[tokio::test]
async fn a_failing_engine_ends_the_stream_with_an_error_event() {
    let script = Script { reason: FinishReason::Failed, error: Some("boom".into()), ..Script::default() };
    let (router, _) = server(script);
    let events = post(&router, PATH, &with(&json!({ "stream": true }))).await.named_events();
    let error = json!({ "type": "api_error", "message": "generation failed: boom" });
    assert_eq!(events.last(), Some(&json!({ "type": "error", "error": error })));
    assert!(events.iter().all(|event| event["type"] != "message_stop"));
    let answer = post(&router, PATH, &with(&json!({}))).await;
    assert_eq!(refusal(&answer, 500, "api_error"), "generation failed: boom");
}
