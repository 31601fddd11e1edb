//! What one client sees.

use serde_json::{Value, json};

use crate::support::Server;

#[tokio::test]
async fn a_chat_is_answered_alike_whole_and_streamed() {
    let server = Server::start(&[]).await;
    let models: Value = server.get("/v1/models").await.unwrap().json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "nvllm-tiny");
    assert!(models["data"][0]["max_model_len"].as_u64().unwrap() > 0);
    let mut body = json!({
        "model": "nvllm-tiny", "temperature": 0, "max_tokens": 24,
        "messages": [{ "role": "user", "content": "What is the capital of France?" }],
    });
    let answer = server.post("/v1/chat/completions", &body).await.unwrap();
    assert_eq!(answer.status(), 200);
    let whole: Value = answer.json().await.unwrap();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!text.is_empty());
    body["stream"] = json!(true);
    let answer = server.post("/v1/chat/completions", &body).await.unwrap().text().await.unwrap();
    let chunks = answer.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let chunks =
        chunks.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str::<Value>(data).unwrap());
    let streamed: String = chunks
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(streamed, text);
    // What was asked for once is in the cache.
    let again: Value = {
        body["stream"] = json!(false);
        server.post("/v1/chat/completions", &body).await.unwrap().json().await.unwrap()
    };
    assert_eq!(again["choices"][0]["message"]["content"], text);
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0, "{again}");
    server.wait_until_idle().await;
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_refused_by_name_and_the_server_goes_on() {
    let server = Server::start(&["--max-model-len", "64"]).await;
    let long = "word ".repeat(500);
    for (path, body, param) in [
        ("/v1/completions", json!({ "prompt": long }), "prompt"),
        ("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": long }] }), "messages"),
        ("/v1/completions", json!({ "prompt": [99_999_999] }), "prompt"),
        ("/v1/completions", json!({ "prompt": "a", "n": 100_000 }), "n"),
    ] {
        let answer = server.post(path, &body).await.unwrap();
        let (status, error) = (answer.status(), answer.json::<Value>().await.unwrap());
        assert_eq!((status.as_u16(), &error["error"]["param"]), (400, &json!(param)), "{error}");
    }
    let body = json!({ "prompt": long, "max_tokens": 4, "truncate_prompt_tokens": -1 });
    assert_eq!(server.post("/v1/completions", &body).await.unwrap().status(), 200);
}

#[tokio::test]
async fn answers_follow_a_schema_whole_and_streamed() {
    let server = Server::start(&[]).await;
    let schema = json!({ "type": "object", "additionalProperties": false, "required": ["city", "year"],
        "properties": { "city": { "type": "string", "maxLength": 20 }, "year": { "type": "integer", "minimum": 0, "maximum": 9999 } } });
    let mut body = json!({
        "temperature": 1, "seed": 5, "max_tokens": 200,
        "messages": [{ "role": "user", "content": "What is the capital of France?" }],
        "response_format": { "type": "json_schema", "json_schema": { "name": "city", "schema": schema, "strict": true } },
    });
    let whole: Value = server.post("/v1/chat/completions", &body).await.unwrap().json().await.unwrap();
    assert_eq!(whole["choices"][0]["finish_reason"], "stop", "{whole}");
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    let value: Value = serde_json::from_str(text).unwrap();
    assert!(value["city"].is_string() && value["year"].as_u64().is_some_and(|year| year <= 9999), "{value}");
    body["stream"] = json!(true);
    let streamed = server.post("/v1/chat/completions", &body).await.unwrap().text().await.unwrap();
    let pieces = streamed
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .filter(|data| *data != "[DONE]");
    let pieces = pieces.map(|data| serde_json::from_str::<Value>(data).unwrap());
    let joined: String = pieces
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(joined, text);
    let refused = json!({ "prompt": "a", "structured_outputs": { "regex": "(" } });
    assert_eq!(server.post("/v1/completions", &refused).await.unwrap().status(), 400);
    // Nobody's choice: the request contradicts itself.
    let stuck =
        json!({ "prompt": "a", "allowed_token_ids": [5], "structured_outputs": { "choice": ["yes"] } });
    let answer = server.post("/v1/completions", &stuck).await.unwrap();
    assert_eq!(answer.status(), 400, "{}", answer.text().await.unwrap());
    server.wait_until_idle().await;
}
