//! `/tokenize`, `/detokenize`, `/tokenizer_info`, and the render routes.

use serde_json::{Value, json};

use crate::support::{Script, get, post, server, tokens};

#[tokio::test]
async fn texts_and_conversations_become_the_tokens_that_are_run() {
    let (router, engine) = server(Script::default());
    let body =
        post(&router, "/tokenize", &json!({ "prompt": "Once upon", "return_token_strs": true })).await.json();
    let ids: Vec<u32> = tokens("Once upon").iter().map(|token| token.0).collect();
    assert_eq!((&body["tokens"], &body["count"]), (&json!(ids), &json!(ids.len())));
    assert_eq!(body["token_strs"].as_array().unwrap().len(), ids.len());
    let back = post(&router, "/detokenize", &json!({ "tokens": ids })).await.json();
    assert_eq!(back["prompt"], "Once upon");

    let chat = json!({ "messages": [{ "role": "user", "content": "Hello" }] });
    post(&router, "/v1/chat/completions", &chat).await;
    let prompt: Vec<u32> = engine.last().prompt.iter().map(|token| token.0).collect();
    assert_eq!(post(&router, "/tokenize", &chat).await.json()["tokens"], json!(prompt));
    let rendered = post(&router, "/v1/chat/completions/render", &chat).await.json();
    assert_eq!(rendered["token_ids"], json!(prompt));
    let rendered = post(&router, "/v1/completions/render", &json!({ "prompt": "Once upon" })).await.json();
    assert_eq!(rendered[0]["token_ids"], json!(ids));
    assert_eq!(engine.asked.lock().unwrap().len(), 1, "rendering runs nothing");
}

#[tokio::test]
async fn bad_tokens_are_refused() {
    let (router, _) = server(Script::default());
    for (path, body, param) in [
        ("/detokenize", json!({ "tokens": [1, 99_999_999] }), "tokens[1]"),
        ("/detokenize", json!({}), "tokens"),
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({ "prompt": "a", "messages": [] }), "prompt"),
    ] {
        let answer = post(&router, path, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"]["param"].clone()),
            (400, json!(param)),
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_tokenizer_names_its_end() {
    let (router, _) = server(Script::default());
    let info = get(&router, "/tokenizer_info").await.json();
    assert!(info["eos_token"].is_string() && info["vocab_size"].is_u64(), "{info}");
    assert_ne!(info.get("eos_token"), Some(&Value::Null));
}
