//! `/v1/embeddings`, as `OpenAI`'s SDKs ask for it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nvllm_engine::EngineError;
use nvllm_serve::ServedOptions;
use serde_json::{Value, json};

use crate::support::{MODEL, Script, post, served, server, tokens};

const PATH: &str = "/v1/embeddings";

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[tokio::test]
async fn inputs_of_every_kind_are_embedded_in_order() {
    let (router, engine) = server(Script::default());
    let ids: Vec<u32> = tokens("Once upon a time").iter().map(|token| token.0).collect();
    for (input, lens) in [
        (json!("Once upon a time"), vec![ids.len()]),
        (json!(ids), vec![ids.len()]),
        (json!(["Once upon a time", "Once"]), vec![ids.len(), tokens("Once").len()]),
        (json!([ids, [5, 6, 7, 8, 9], [5]]), vec![ids.len(), 5, 1]),
    ] {
        let answer = post(&router, PATH, &json!({ "model": "tiny", "input": input })).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = answer.json();
        assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!("tiny")));
        let total: usize = lens.iter().sum();
        assert_eq!(body["usage"], json!({ "prompt_tokens": total, "total_tokens": total }));
        let data = body["data"].as_array().unwrap();
        assert_eq!(data.len(), lens.len());
        for ((at, of), len) in data.iter().enumerate().zip(lens) {
            assert_eq!((&of["object"], &of["index"]), (&json!("embedding"), &json!(at)));
            let vector = floats(&of["embedding"]);
            assert_eq!(vector.len(), MODEL.spec.hidden_size().unwrap());
            let length = (25.0 + (len * len) as f32).sqrt();
            let near = |at: usize, value: f32| (vector[at] - value / length).abs() < 1e-6;
            assert!(near(0, 3.0) && near(1, 4.0) && near(2, len as f32) && near(3, 0.0), "{vector:?}");
        }
        let asked = engine.last();
        assert!(asked.embed && asked.max_tokens.is_none());
    }
}

#[tokio::test]
async fn fewer_dimensions_are_brought_to_length_1_again() {
    let (router, _) = server(Script::default());
    let body = post(&router, PATH, &json!({ "input": "a", "dimensions": 2 })).await.json();
    assert_eq!(floats(&body["data"][0]["embedding"]), [0.6, 0.8]);
}

/// The Python SDK asks for it by default and decodes f32 in little endian.
#[tokio::test]
async fn base64_is_the_same_numbers() {
    let (router, _) = server(Script::default());
    let ask =
        |format: &str| json!({ "input": ["Once", "upon a time"], "encoding_format": format, "user": "u" });
    let [whole, coded] =
        [post(&router, PATH, &ask("float")).await, post(&router, PATH, &ask("base64")).await];
    let (whole, coded) = (whole.json(), coded.json());
    for at in 0..2 {
        let bytes = STANDARD.decode(coded["data"][at]["embedding"].as_str().unwrap()).unwrap();
        let numbers: Vec<f32> =
            bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        assert_eq!(numbers, floats(&whole["data"][at]["embedding"]));
    }
}

#[tokio::test]
async fn the_end_of_an_input_is_kept() {
    let (router, engine) = server(Script::default());
    let body = json!({ "input": [[1, 2, 3, 4, 5]], "truncate_prompt_tokens": 2 });
    assert_eq!(post(&router, PATH, &body).await.json()["usage"]["prompt_tokens"], 2);
    assert_eq!(engine.last().prompt, [4, 5].map(nvllm_core::TokenId));
    // As much as the context has, which is more.
    let body = json!({ "input": [[1, 2, 3]], "truncate_prompt_tokens": -1 });
    assert_eq!(post(&router, PATH, &body).await.json()["usage"]["prompt_tokens"], 3);
}

#[tokio::test]
async fn a_bad_request_is_refused_by_name_and_nothing_runs() {
    let (router, engine) = server(Script::default());
    for (body, param) in [
        (json!({}), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": 5 }), "input"),
        (json!({ "input": ["a", 5] }), "input"),
        (json!({ "input": "a", "dimensions": 0 }), "dimensions"),
        (json!({ "input": "a", "dimensions": 257 }), "dimensions"),
        (json!({ "input": "a", "encoding_format": "int8" }), "encoding_format"),
        (json!({ "input": "a", "truncate_prompt_tokens": 0 }), "truncate_prompt_tokens"),
    ] {
        let answer = post(&router, PATH, &body).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status.as_u16(), &error["param"]), (400, &json!(param)), "{body}: {error}");
        assert!(error["message"].as_str().unwrap().contains(param), "{error}");
    }
    let answer = post(&router, PATH, &json!({ "input": "a", "model": "gpt" })).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (404, &json!("model")));
    assert!(engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_was_not_started_for_it_says_so() {
    let options = ServedOptions { names: vec!["tiny".into()], ..ServedOptions::default() };
    let (router, _) = served(Script::default(), options);
    let answer = post(&router, PATH, &json!({ "model": "tiny", "input": "a" })).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status.as_u16(), &error["param"]), (400, &json!("model")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("this server was not started with --embeddings"), "{message}");
}

#[tokio::test]
async fn what_the_engine_says_is_passed_on() {
    let too_long = || EngineError::RequestField { field: "prompt", problem: "is too long".into() };
    let (router, _) = server(Script { refusal: Some(too_long), ..Script::default() });
    assert_eq!(post(&router, PATH, &json!({ "input": "a" })).await.status, 400);
    let empty = || EngineError::Request(nvllm_engine::SchedError::EmptyPrompt);
    let (router, _) = server(Script { refusal: Some(empty), ..Script::default() });
    let answer = post(&router, PATH, &json!({ "input": "" })).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!("input")));
    let (router, _) = server(Script { error: Some("boom".into()), ..Script::default() });
    let answer = post(&router, PATH, &json!({ "input": "a" })).await;
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("boom"), "{}", answer.text());
}
