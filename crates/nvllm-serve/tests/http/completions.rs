//! `/v1/completions`.

use nvllm_engine::FinishReason;
use serde_json::{Value, json};

use crate::support::{Script, post, server, tokens};

const PATH: &str = "/v1/completions";

#[tokio::test]
async fn prompts_of_every_kind_are_continued_in_order() {
    let (router, engine) = server(Script::default());
    let ids: Vec<u32> = tokens("Once upon").iter().map(|token| token.0).collect();
    for (prompt, num_choices) in [
        (json!("Once upon"), 2),
        (json!(ids), 2),
        (json!(["Once upon", "a time"]), 4),
        (json!([ids, ids, ids]), 6),
    ] {
        let answer = post(&router, PATH, &json!({ "prompt": prompt, "n": 2 })).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = answer.json();
        let choices = body["choices"].as_array().unwrap();
        let indices: Vec<_> = choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
        assert_eq!(indices, (0..num_choices).collect::<Vec<_>>());
        assert!(choices.iter().all(|choice| choice["text"] == "It is Paris."));
        assert_eq!(engine.last().max_tokens, Some(16));
    }
}

#[tokio::test]
async fn a_stream_ends_each_choice_once_and_has_the_usage_last() {
    let (router, _) = server(Script::default());
    let body = json!({
        "prompt": ["Once upon", "a time"], "n": 2, "stream": true, "return_token_ids": true,
        "stream_options": { "include_usage": true },
    });
    let chunks = post(&router, PATH, &body).await.chunks();
    for chunk in &chunks {
        assert_eq!((&chunk["object"], &chunk["id"]), (&json!("text_completion"), &chunks[0]["id"]));
    }
    let (last, chunks) = chunks.split_last().unwrap();
    let said: Vec<u32> = tokens("It is Paris.").iter().map(|token| token.0).collect();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(4 * said.len())));
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    for index in 0..4 {
        let choices = chunks.iter().map(|chunk| &chunk["choices"][0]);
        let choices: Vec<_> = choices.filter(|choice| choice["index"] == index).collect();
        let text: String = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(text, "It is Paris.");
        // Each chunk has the new ones only: clients join them.
        let ids = choices.iter().filter_map(|choice| choice["token_ids"].as_array()).flatten();
        assert_eq!(json!(ids.collect::<Vec<_>>()), json!(said));
        let (end, before) = choices.split_last().unwrap();
        assert_eq!(end["finish_reason"], "stop");
        assert!(before.iter().all(|choice| choice["finish_reason"].is_null()));
    }
}

#[tokio::test]
async fn an_error_in_mid_stream_is_named_and_an_object() {
    let script = Script { reason: FinishReason::Failed, error: Some("boom".into()), ..Script::default() };
    let (router, _) = server(script);
    let events = post(&router, PATH, &json!({ "prompt": "Once", "stream": true })).await.events();
    let last = events.last().unwrap();
    let data = last.strip_prefix("event: error\ndata: ").unwrap_or_else(|| panic!("{last}"));
    let error: Value = serde_json::from_str(data).unwrap();
    assert_eq!(error["error"]["message"], "generation failed: boom");
}

#[tokio::test]
async fn an_echo_has_prompt_and_answer_with_scores() {
    let (router, _) = server(Script::default());
    let body = json!({ "prompt": "Once upon a time", "echo": true, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234 });
    let whole = post(&router, PATH, &body).await.json();
    let choice = &whole["choices"][0];
    let (prompt, answer) = (tokens("Once upon a time"), tokens("It is Paris."));
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), prompt.len() + 1);
    assert_eq!(logprobs["token_logprobs"][0], Value::Null);
    assert_eq!(logprobs["top_logprobs"][0], Value::Null);
    for at in 1..=prompt.len() {
        let name = logprobs["tokens"][at].as_str().unwrap();
        let likeliest = logprobs["top_logprobs"][at].as_object().unwrap();
        assert_eq!(likeliest[name].to_string(), logprobs["token_logprobs"][at].to_string());
    }
    let text = choice["text"].as_str().unwrap();
    assert!(text.starts_with("Once upon a time") && text.len() > "Once upon a time".len(), "{text}");
    let offsets: Vec<usize> = serde_json::from_value(logprobs["text_offset"].clone()).unwrap();
    assert_eq!((offsets[0], offsets[prompt.len()]), (0, "Once upon a time".len()));
    assert_eq!(choice["finish_reason"], if answer.len() > 1 { "length" } else { "stop" });
    // Streamed, the same.
    let mut body = body;
    body["stream"] = json!(true);
    let chunks = post(&router, PATH, &body).await.chunks();
    let streamed: String = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(streamed, text);
}

#[tokio::test]
async fn prompt_scores_are_shown_apart_if_asked_for() {
    let (router, _) = server(Script::default());
    let body = post(&router, PATH, &json!({ "prompt": "Once upon", "prompt_logprobs": 1 })).await.json();
    let rows = body["choices"][0]["prompt_logprobs"].as_array().unwrap();
    let prompt = tokens("Once upon");
    assert_eq!((rows.len(), &rows[0]), (prompt.len(), &Value::Null));
    let row = &rows[1][prompt[1].to_string()];
    assert_eq!((row["logprob"].as_f64(), row["rank"].as_u64()), (Some(-0.7), Some(1)));
}

#[tokio::test]
async fn an_echo_is_the_prompt_as_it_came_and_offsets_count_characters() {
    let (router, _) = server(Script { text: "ok".into(), ..Script::default() });
    let prompt = "<|im_start|>user\nHi \u{1F600}\u{4F60}\u{597D}";
    for sent in [json!(prompt), json!(tokens(prompt).iter().map(|token| token.0).collect::<Vec<_>>())] {
        let body = post(&router, PATH, &json!({ "prompt": sent, "echo": true, "logprobs": 1 })).await.json();
        let choice = &body["choices"][0];
        assert_eq!(choice["text"], format!("{prompt}ok"));
        let offsets: Vec<usize> = serde_json::from_value(choice["logprobs"]["text_offset"].clone()).unwrap();
        assert!(offsets.is_sorted());
        assert_eq!(offsets[tokens(prompt).len()], prompt.chars().count());
    }
}
