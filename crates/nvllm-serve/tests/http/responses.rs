//! `/v1/responses`. The names of the tests are what real clients were seen to need.

use axum::body::Body;
use axum::http::Request as HttpRequest;
use nvllm_engine::{FinishReason, Health};
use serde_json::{Value, json};

use crate::support::{Answer, Script, call, get, post, prompt_of, served, server, tokens};

const PATH: &str = "/v1/responses";

fn with(fields: &Value) -> Value {
    let mut body = json!({ "model": "tiny", "input": "Hello" });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// The events of a stream. Each is named as its data says, and numbered without a gap.
fn events(answer: &Answer) -> Vec<Value> {
    let events = answer.named_events();
    events.iter().enumerate().for_each(|(at, event)| assert_eq!(event["sequence_number"], at));
    events
}

#[tokio::test]
async fn an_answer_is_whole_and_repeats_its_request() {
    let (router, engine) = server(Script::default());
    let fields = json!({
        "instructions": "Be brief.", "metadata": { "key": "value" }, "temperature": 0.5, "top_p": 0.9, "seed": 7,
        "store": true, "user": "someone", "max_output_tokens": 50, "reasoning": { "effort": "none" },
    });
    let answer = post(&router, PATH, &with(&fields)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    assert!(body["id"].as_str().unwrap().starts_with("resp_"));
    assert_eq!((&body["object"], &body["status"]), (&json!("response"), &json!("completed")));
    assert!(body["created_at"].as_u64() <= body["completed_at"].as_u64() && body["created_at"].is_u64());
    let item = &body["output"][0];
    assert!(item["id"].as_str().unwrap().starts_with("msg_"));
    let text = json!({ "type": "output_text", "text": "It is Paris.", "annotations": [], "logprobs": [] });
    let expected = json!({
        "type": "message", "id": item["id"], "status": "completed", "role": "assistant", "content": [text],
    });
    assert_eq!(body["output"], json!([expected]));
    let asked = engine.last();
    let (input, output) = (asked.prompt.len(), tokens("It is Paris.").len());
    let usage = json!({
        "input_tokens": input, "input_tokens_details": { "cached_tokens": 1, "cache_write_tokens": 0 },
        "output_tokens": output, "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": input + output,
    });
    assert_eq!(body["usage"], usage);
    for (name, value) in [
        ("instructions", json!("Be brief.")),
        ("metadata", json!({ "key": "value" })),
        ("temperature", json!(0.5)),
        ("top_p", json!(0.9)),
        ("max_output_tokens", json!(50)),
        ("parallel_tool_calls", json!(true)),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("previous_response_id", Value::Null),
        ("reasoning", json!({ "effort": "none", "summary": null })),
        ("text", json!({ "format": { "type": "text" } })),
        ("truncation", json!("disabled")),
        ("error", Value::Null),
        ("incomplete_details", Value::Null),
        ("store", json!(false)),
        ("background", json!(false)),
        ("user", json!("someone")),
    ] {
        assert_eq!(body.get(name), Some(&value), "{name}");
    }
    assert_eq!((asked.sampling.seed, asked.sampling.temperature, asked.max_tokens), (7, 0.5, Some(50)));
}

#[tokio::test]
async fn a_stream_has_all_nine_kinds_of_events_in_order() {
    let (router, _) = server(Script::default());
    let answer = post(&router, PATH, &with(&json!({ "stream": true }))).await;
    let events = events(&answer);
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let deltas = tokens("It is Paris.").len();
    let before = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ];
    let after = [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    let expected: Vec<_> =
        before.into_iter().chain(vec!["response.output_text.delta"; deltas]).chain(after).collect();
    assert_eq!(kinds, expected);
    let text: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(text, "It is Paris.");
    let of = |kind: &str| &events[kinds.iter().position(|it| *it == kind).unwrap()];
    assert_eq!(of("response.output_text.done")["text"], "It is Paris.");
    for event in &events[..2] {
        assert_eq!(
            (&event["response"]["status"], &event["response"]["output"]),
            (&json!("in_progress"), &json!([]))
        );
        assert_eq!(event["response"]["usage"], Value::Null);
    }
    assert_eq!(of("response.output_item.added")["item"]["content"], json!([]));
    assert_eq!(of("response.content_part.added")["part"]["text"], "");
    assert_eq!(of("response.content_part.done")["part"]["text"], "It is Paris.");
}

#[tokio::test]
async fn ids_are_made_once_and_the_last_event_has_the_whole_output() {
    let (router, _) = server(Script::default());
    let events = events(&post(&router, PATH, &with(&json!({ "stream": true }))).await);
    let (first, last) = (&events[0]["response"], &events.last().unwrap()["response"]);
    assert_eq!(first["id"], last["id"]);
    let item_id = &events[2]["item"]["id"];
    assert!(item_id.as_str().unwrap().starts_with("msg_"));
    for event in &events[3..events.len() - 2] {
        assert_eq!(
            (&event["item_id"], &event["output_index"], &event["content_index"]),
            (item_id, &json!(0), &json!(0))
        );
    }
    let done = &events[events.len() - 2]["item"];
    assert_eq!((&done["id"], &done["status"]), (item_id, &json!("completed")));
    assert_eq!(last["output"], json!([done]));
    assert_eq!(last["usage"]["output_tokens"], tokens("It is Paris.").len());
    let whole = post(&router, PATH, &with(&json!({}))).await.json();
    assert_eq!(
        (&whole["output"][0]["content"], &whole["usage"]),
        (&last["output"][0]["content"], &last["usage"])
    );
}

#[tokio::test]
async fn an_answer_cut_at_max_output_tokens_is_incomplete() {
    let (router, _) = server(Script::default());
    let fields = json!({ "max_output_tokens": 2 });
    let body = post(&router, PATH, &with(&fields)).await.json();
    let reason = json!({ "reason": "max_output_tokens" });
    assert_eq!((&body["status"], &body["incomplete_details"]), (&json!("incomplete"), &reason));
    assert_eq!(
        (&body["output"][0]["status"], &body["usage"]["output_tokens"]),
        (&json!("incomplete"), &json!(2))
    );
    assert_eq!(body["completed_at"], Value::Null);
    let events =
        events(&post(&router, PATH, &with(&json!({ "max_output_tokens": 2, "stream": true }))).await);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["incomplete_details"]),
        (&json!("response.incomplete"), &reason)
    );
    assert_eq!(last["response"]["output"][0]["content"], body["output"][0]["content"]);
}

#[tokio::test]
async fn a_failing_engine_ends_the_stream_with_response_failed() {
    let script = Script { reason: FinishReason::Failed, error: Some("boom".into()), ..Script::default() };
    let (router, _) = server(script);
    let events = events(&post(&router, PATH, &with(&json!({ "stream": true }))).await);
    let failed = &events.last().unwrap();
    assert_eq!(
        (&failed["type"], &failed["response"]["status"]),
        (&json!("response.failed"), &json!("failed"))
    );
    let error = json!({ "code": "server_error", "message": "generation failed: boom" });
    assert_eq!(failed["response"]["error"], error);
    let ends = events.iter().filter(|event| event["type"].as_str().unwrap().ends_with("done")).count();
    assert_eq!(ends, 0);
    let answer = post(&router, PATH, &with(&json!({}))).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["error"]["message"].clone()),
        (500, json!("generation failed: boom"))
    );
}

#[tokio::test]
async fn instructions_are_the_first_message_and_items_the_others() {
    let (router, engine) = server(Script::default());
    let chat = json!({ "messages": [
        { "role": "system", "content": "Be brief." }, { "role": "user", "content": "Where?" },
        { "role": "assistant", "content": "There." }, { "role": "user", "content": "And now?" },
    ] });
    post(&router, "/v1/chat/completions", &chat).await;
    let expected = prompt_of(&engine.last());
    let items = json!({ "instructions": "Be brief.", "input": [
        { "role": "user", "content": "Where?" },
        { "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
          "content": [{ "type": "output_text", "text": "There.", "annotations": [], "logprobs": [] }] },
        { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "And now?" }] },
    ] });
    let answer = post(&router, PATH, &with(&items)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(prompt_of(&engine.last()), expected);
    let count = post(&router, "/v1/responses/input_tokens", &with(&items)).await.json();
    let input_tokens = engine.last().prompt.len();
    assert_eq!(count, json!({ "object": "response.input_tokens", "input_tokens": input_tokens }));
}

#[tokio::test]
async fn log_probabilities_come_if_included() {
    let (router, engine) = server(Script::default());
    let fields = json!({ "include": ["message.output_text.logprobs"], "top_logprobs": 2 });
    let body = post(&router, PATH, &with(&fields)).await.json();
    let logprobs = &body["output"][0]["content"][0]["logprobs"];
    assert_eq!(logprobs.as_array().unwrap().len(), tokens("It is Paris.").len());
    assert_eq!(
        (logprobs[0]["top_logprobs"].as_array().unwrap().len(), &body["top_logprobs"]),
        (2, &json!(2))
    );
    let mut streamed = fields.clone();
    streamed["stream"] = json!(true);
    let events = events(&post(&router, PATH, &with(&streamed)).await);
    let deltas: Vec<_> =
        events.iter().filter(|event| event["type"] == "response.output_text.delta").collect();
    let of_deltas: Vec<_> = deltas.iter().flat_map(|event| event["logprobs"].as_array().unwrap()).collect();
    assert_eq!(json!(of_deltas), *logprobs);
    let done = events.iter().find(|event| event["type"] == "response.output_text.done").unwrap();
    assert_eq!(done["logprobs"], *logprobs);
    post(&router, PATH, &with(&json!({}))).await;
    assert_eq!(engine.last().logprobs, None);
}

#[tokio::test]
async fn what_routers_and_clients_fill_in_is_taken() {
    let (router, engine) = server(Script::default());
    let fields = json!({
        "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "store": true,
        "priority": 0, "stream": null, "tools": [], "tool_choice": "auto", "parallel_tool_calls": true,
        "background": false, "previous_response_id": null, "conversation": null, "prompt": null,
        "include": ["reasoning.encrypted_content"], "reasoning": { "effort": "medium", "summary": "auto" },
        "text": { "format": { "type": "text" }, "verbosity": "low" }, "truncation": "disabled",
        "prompt_cache_key": "key", "service_tier": "auto", "max_tool_calls": 3, "stop": ["END"],
        "ignore_eos": false, "cache_salt": "salt", "top_logprobs": 0, "my_field": 1,
    });
    let answer = post(&router, PATH, &with(&fields)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let asked = engine.last();
    assert_eq!((asked.sampling.temperature, asked.sampling.top_k), (1.0, 0));
    assert_eq!((asked.stop, asked.cache_salt), (vec!["END".to_owned()], Some("salt".to_owned())));
    let obfuscated = json!({ "stream": true, "stream_options": { "include_obfuscation": false } });
    assert_eq!(post(&router, PATH, &with(&obfuscated)).await.status, 200);
    let named = post(&router, PATH, &with(&json!({ "request_id": "mine" }))).await.json();
    assert_eq!(named["id"], "resp_mine");
}

/// What sglang-router fills in, and nobody said.
#[tokio::test]
async fn neutral_values_count_as_absent_if_asked_for() {
    let options = nvllm_serve::ServedOptions { neutral_is_absent: true, ..Default::default() };
    let (router, engine) = served(Script::default(), options);
    post(&router, PATH, &json!({ "input": "Hello" })).await;
    let own = engine.last().sampling;
    assert_ne!((own.temperature, own.top_k), (1.0, 0), "the model has defaults of its own");
    let filled = json!({
        "input": "Hello", "store": true, "stream": null, "temperature": 1.0, "top_p": 1.0, "priority": 0,
        "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
    });
    let answer = post(&router, PATH, &filled).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let asked = engine.last().sampling;
    assert_eq!((asked.temperature, asked.top_k, asked.top_p), (own.temperature, own.top_k, own.top_p));
}

#[tokio::test]
async fn what_cannot_be_met_is_refused_by_name_and_nothing_runs() {
    let (router, engine) = server(Script::default());
    let item = |item: Value| json!({ "input": [{ "role": "user", "content": "hi" }, item] });
    let image = json!([{ "type": "input_text", "text": "a" }, { "type": "input_image", "image_url": "b" }]);
    for (fields, param) in [
        (json!({ "input": null }), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": 5 }), "input"),
        (item(json!({ "content": "hi" })), "input[1].role"),
        (item(json!({ "role": "wizard", "content": "hi" })), "input[1].role"),
        (item(json!({ "role": "user" })), "input[1].content"),
        (item(json!({ "type": "item_reference", "id": "msg_1" })), "input[1].type"),
        (item(json!({ "role": "user", "content": image })), "input[1].content[1].type"),
        (
            item(json!({ "role": "user", "content": [{ "type": "input_file", "file_id": "f" }] })),
            "input[1].content[0].type",
        ),
        (json!({ "previous_response_id": "resp_1" }), "previous_response_id"),
        (json!({ "conversation": "conv_1" }), "conversation"),
        (json!({ "prompt": { "id": "pmpt_1" } }), "prompt"),
        (json!({ "background": true }), "background"),
        (json!({ "text": { "format": { "type": "xml" } } }), "text.format.type"),
        (json!({ "truncation": "some" }), "truncation"),
        (json!({ "include": ["everything"] }), "include[0]"),
        (json!({ "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "include": ["message.output_text.logprobs"], "top_logprobs": 50 }), "top_logprobs"),
        (json!({ "max_output_tokens": 0 }), "max_output_tokens"),
        (json!({ "reasoning": { "effort": "huge" } }), "reasoning.effort"),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "n": 2 }), "n"),
        (json!({ "instructions": 5 }), "instructions"),
    ] {
        let answer = post(&router, PATH, &with(&fields)).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status.as_u16(), &error["param"]), (400, &json!(param)), "{fields}: {error}");
        assert!(error["message"].as_str().unwrap().contains(param), "{fields}: {error}");
    }
    assert!(engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_asks_for_a_stored_response_is_told_that_none_is() {
    let (router, _) = server(Script::default());
    let path = "/v1/responses/resp_1";
    let delete = HttpRequest::delete(path).body(Body::empty()).unwrap();
    for answer in [
        get(&router, path).await,
        call(&router, delete).await,
        post(&router, "/v1/responses/resp_1/cancel", &json!({})).await,
        get(&router, "/v1/responses/resp_1/input_items").await,
    ] {
        let error = &answer.json()["error"];
        assert_eq!((answer.status.as_u16(), &error["param"]), (404, &json!("response_id")), "{error}");
        assert!(error["message"].as_str().unwrap().contains("not stored"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_ready_says_so_before_it_reads() {
    let (router, _) = server(Script { health: Health::Loading, ..Script::default() });
    assert_eq!(post(&router, PATH, &json!([])).await.status, 503);
}
