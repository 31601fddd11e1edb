//! Thoughts, on all routes that have messages.

use nvllm_serve::{ReasoningField, ReasoningParser, ServedOptions};
use serde_json::{Value, json};

use crate::support::{Script, post, prompt_of, served, server, tokens};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const THOUGHT: &str = "<think>\nIt asks for a city.\n</think>\n\nIt is Paris.";

fn thinking() -> Script {
    Script { text: THOUGHT.into(), ..Script::default() }
}

/// The tokens between the marks.
fn num_thoughts() -> usize {
    tokens(THOUGHT).len() - tokens("<think>").len() - tokens("</think>\n\nIt is Paris.").len()
}

fn chat(fields: &Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn message(fields: &Value) -> Value {
    let mut body = chat(fields);
    body["max_tokens"] = json!(100);
    body
}

/// The texts of a field of all deltas.
fn joined(chunks: &[Value], field: &str) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][field].as_str()).collect()
}

#[tokio::test]
async fn a_chats_thoughts_are_apart_from_its_content() {
    let (router, _) = server(thinking());
    let body = post(&router, CHAT, &chat(&json!({}))).await.json();
    let message = &body["choices"][0]["message"];
    assert_eq!(
        (&message["reasoning"], &message["content"], message.get("reasoning_content")),
        (&json!("It asks for a city."), &json!("It is Paris."), None)
    );
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["completion_tokens_details"]["reasoning_tokens"], num_thoughts());
    assert_eq!(body["usage"]["completion_tokens"], tokens(THOUGHT).len());
    let fields = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let chunks = post(&router, CHAT, &chat(&fields)).await.chunks();
    assert_eq!(joined(&chunks, "reasoning"), "It asks for a city.");
    assert_eq!(joined(&chunks, "content"), "It is Paris.");
    let has = |field: &str| {
        chunks.iter().position(|chunk| !chunk["choices"][0]["delta"][field].as_str().unwrap_or("").is_empty())
    };
    assert!(has("reasoning") < has("content"), "thoughts come first");
    let details = &chunks.last().unwrap()["usage"]["completion_tokens_details"];
    assert_eq!(details["reasoning_tokens"], num_thoughts());
}

#[tokio::test]
async fn thoughts_have_the_name_that_the_server_was_told() {
    for (field, names, others) in [
        (ReasoningField::Reasoning, &["reasoning"][..], &["reasoning_content"][..]),
        (ReasoningField::ReasoningContent, &["reasoning_content"], &["reasoning"]),
        (ReasoningField::Both, &["reasoning", "reasoning_content"], &[]),
    ] {
        let options = ServedOptions { reasoning_field: field, ..ServedOptions::default() };
        let (router, _) = served(thinking(), options);
        let whole = post(&router, CHAT, &chat(&json!({}))).await.json();
        let chunks = post(&router, CHAT, &chat(&json!({ "stream": true }))).await.chunks();
        for name in names {
            assert_eq!(whole["choices"][0]["message"][*name], "It asks for a city.");
            assert_eq!(joined(&chunks, name), "It asks for a city.");
        }
        for name in others {
            assert!(whole["choices"][0]["message"].get(*name).is_none());
            assert_eq!(joined(&chunks, name), "");
        }
    }
}

#[tokio::test]
async fn without_a_parser_thoughts_are_content() {
    let options = ServedOptions { reasoning_parser: ReasoningParser::Off, ..ServedOptions::default() };
    let (router, _) = served(thinking(), options);
    let body = post(&router, CHAT, &chat(&json!({}))).await.json();
    assert_eq!(body["choices"][0]["message"]["content"], THOUGHT);
    assert!(body["choices"][0]["message"].get("reasoning").is_none());
    let refused = post(&router, CHAT, &chat(&json!({ "thinking_token_budget": 5 }))).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error"]["param"]),
        (400, &json!("thinking_token_budget"))
    );
}

#[tokio::test]
async fn thoughts_are_left_out_if_they_are_not_wanted() {
    let (router, _) = server(thinking());
    let fields = json!({ "include_reasoning": false });
    let body = post(&router, CHAT, &chat(&fields)).await.json();
    let message = &body["choices"][0]["message"];
    assert_eq!((message.get("reasoning"), &message["content"]), (None, &json!("It is Paris.")));
    assert_eq!(
        body["usage"]["completion_tokens_details"]["reasoning_tokens"],
        num_thoughts(),
        "they are paid"
    );
    let mut streamed = fields.clone();
    streamed["stream"] = json!(true);
    let chunks = post(&router, CHAT, &chat(&streamed)).await.chunks();
    assert_eq!(
        (joined(&chunks, "reasoning"), joined(&chunks, "content")),
        (String::new(), "It is Paris.".into())
    );
    let response =
        post(&router, RESPONSES, &json!({ "input": "Hi", "include_reasoning": false })).await.json();
    assert_eq!(response["output"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_cut_in_its_thoughts_has_no_content() {
    let (router, _) = server(thinking());
    let body = post(&router, CHAT, &chat(&json!({ "max_tokens": 4 }))).await.json();
    let choice = &body["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&Value::Null, &json!("length")));
    assert!(!choice["message"]["reasoning"].as_str().unwrap().is_empty());
    let response = post(&router, RESPONSES, &json!({ "input": "Hi", "max_output_tokens": 4 })).await.json();
    assert_eq!(response["status"], "incomplete");
    let items = response["output"].as_array().unwrap();
    assert_eq!(
        (items.len(), &items[0]["type"], &items[0]["status"]),
        (1, &json!("reasoning"), &json!("incomplete"))
    );
    let mut cut = message(&json!({}));
    cut["max_tokens"] = json!(4);
    let body = post(&router, MESSAGES, &cut).await.json();
    assert_eq!(
        (&body["content"][0]["type"], &body["stop_reason"]),
        (&json!("thinking"), &json!("max_tokens"))
    );
}

/// Tokens of thoughts are tokens: whoever asks for ids or log-probabilities gets all of them.
#[tokio::test]
async fn every_token_is_told_once() {
    let (router, _) = server(thinking());
    let fields = json!({ "return_token_ids": true, "logprobs": true });
    let ids = json!(tokens(THOUGHT).iter().map(|token| token.0).collect::<Vec<_>>());
    let body = post(&router, CHAT, &chat(&fields)).await.json();
    assert_eq!(body["choices"][0]["token_ids"], ids);
    assert_eq!(body["choices"][0]["logprobs"]["content"].as_array().unwrap().len(), tokens(THOUGHT).len());
    let mut streamed = fields.clone();
    streamed["stream"] = json!(true);
    let chunks = post(&router, CHAT, &chat(&streamed)).await.chunks();
    let told: Vec<_> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["token_ids"].as_array()).flatten().collect();
    assert_eq!(json!(told), ids);
    let scores =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array()).flatten();
    assert_eq!(scores.count(), tokens(THOUGHT).len());
}

#[tokio::test]
async fn earlier_thoughts_are_the_templates_to_print() {
    let (router, engine) = server(Script::default());
    // Qwen3's template prints those that came after the last question.
    let call = json!({ "id": "call_1", "type": "function", "function": { "name": "f", "arguments": "{}" } });
    let turns = |name: &str| {
        json!({ "messages": [
            { "role": "user", "content": "Hi" },
            { "role": "assistant", "content": null, name: "a thought", "tool_calls": [call] },
            { "role": "tool", "tool_call_id": "call_1", "content": "5" },
        ] })
    };
    for name in ["reasoning", "reasoning_content"] {
        let answer = post(&router, CHAT, &turns(name)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(prompt_of(&engine.last()).contains("<think>\na thought\n</think>\n\n<tool_call>"));
    }
    let expected = prompt_of(&engine.last());
    let items = json!({ "input": [
        { "role": "user", "content": "Hi" },
        { "type": "reasoning", "id": "rs_1", "summary": [], "content": [{ "type": "reasoning_text", "text": "a thought" }] },
        { "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "call_1", "output": "5" },
    ] });
    post(&router, RESPONSES, &items).await;
    assert_eq!(prompt_of(&engine.last()), expected);
    let blocks = json!({ "max_tokens": 5, "thinking": { "type": "enabled", "budget_tokens": 1024 }, "messages": [
        { "role": "user", "content": "Hi" },
        { "role": "assistant", "content": [
            { "type": "thinking", "thinking": "a thought", "signature": "s" },
            { "type": "tool_use", "id": "call_1", "name": "f", "input": {} },
        ] },
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "call_1", "content": "5" }] },
    ] });
    let answer = post(&router, MESSAGES, &blocks).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(prompt_of(&engine.last()), expected);
}

#[tokio::test]
async fn a_response_has_an_item_for_its_thoughts() {
    let (router, _) = server(thinking());
    let whole = post(&router, RESPONSES, &json!({ "input": "Hi" })).await.json();
    let items = whole["output"].as_array().unwrap();
    let kinds: Vec<_> = items.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reasoning", "message"]);
    let part = json!({ "type": "reasoning_text", "text": "It asks for a city." });
    let thought = json!({ "type": "reasoning", "id": items[0]["id"], "summary": [], "content": [part], "status": "completed" });
    assert_eq!(items[0], thought);
    assert!(items[0]["id"].as_str().unwrap().starts_with("rs_"));
    assert_eq!(items[1]["content"][0]["text"], "It is Paris.");
    assert_eq!(whole["usage"]["output_tokens_details"]["reasoning_tokens"], num_thoughts());
    let events = post(&router, RESPONSES, &json!({ "input": "Hi", "stream": true })).await.named_events();
    let mut kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds, expected);
    for event in &events[2..events.len() - 1] {
        let is_thought = event["item"]["type"] == "reasoning" || event["part"]["type"] == "reasoning_text";
        if is_thought || event["type"].as_str().unwrap().contains("reasoning") {
            assert_eq!(event["output_index"], 0, "{event}");
        }
    }
    let of = |kind: &'static str| events.iter().filter(move |event| event["type"] == kind);
    let text: String =
        of("response.reasoning_text.delta").map(|event| event["delta"].as_str().unwrap()).collect();
    assert_eq!(
        (text.as_str(), &of("response.reasoning_text.done").next().unwrap()["text"]),
        ("It asks for a city.", &json!(text))
    );
    let done: Vec<_> = of("response.output_item.done").map(|event| event["item"].clone()).collect();
    assert_eq!(events.last().unwrap()["response"]["output"], json!(done));
}

#[tokio::test]
async fn a_message_has_a_block_for_its_thoughts() {
    let (router, _) = server(thinking());
    let fields = json!({ "thinking": { "type": "enabled", "budget_tokens": 1024 } });
    let whole = post(&router, MESSAGES, &message(&fields)).await.json();
    let signature = whole["content"][0]["signature"].as_str().unwrap();
    assert!(!signature.is_empty());
    let thought = json!({ "type": "thinking", "thinking": "It asks for a city.", "signature": signature });
    assert_eq!(whole["content"], json!([thought, { "type": "text", "text": "It is Paris." }]));
    let mut streamed = message(&fields);
    streamed["stream"] = json!(true);
    let events = post(&router, MESSAGES, &streamed).await.named_events();
    let mut told: Vec<_> = events
        .iter()
        .map(|event| {
            format!("{} {} {}", event["type"], event["index"], event["delta"]["type"]).replace('"', "")
        })
        .collect();
    told.dedup();
    let expected = [
        "message_start null null",
        "content_block_start 0 null",
        "ping null null",
        "content_block_delta 0 thinking_delta",
        "content_block_delta 0 signature_delta",
        "content_block_stop 0 null",
        "content_block_start 1 null",
        "content_block_delta 1 text_delta",
        "content_block_stop 1 null",
        "message_delta null null",
        "message_stop null null",
    ];
    assert_eq!(told, expected);
    assert_eq!(events[1]["content_block"], json!({ "type": "thinking", "thinking": "", "signature": "" }));
    let text: String = events.iter().filter_map(|event| event["delta"]["thinking"].as_str()).collect();
    assert_eq!(text, "It asks for a city.");
}

#[tokio::test]
async fn a_budget_is_the_requests_own_on_every_route() {
    let (router, engine) = server(Script::default());
    let form = json!({ "thinking": { "type": "enabled", "budget_tokens": 1024 } });
    for (path, body, budget) in [
        (CHAT, chat(&json!({})), None),
        (CHAT, chat(&json!({ "thinking_token_budget": 7 })), Some(7)),
        (CHAT, chat(&json!({ "thinking_token_budget": 0 })), Some(0)),
        (CHAT, chat(&form), Some(1024)),
        (RESPONSES, json!({ "input": "Hi", "thinking_token_budget": 7 }), Some(7)),
        (MESSAGES, message(&form), Some(1024)),
        (MESSAGES, message(&json!({ "thinking": { "type": "disabled", "budget_tokens": 1024 } })), None),
    ] {
        let answer = post(&router, path, &body).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(engine.last().thinking_budget, budget, "{body}");
    }
}

/// As with Anthropic: clients look at the first block for the text.
#[tokio::test]
async fn a_message_thinks_only_if_it_is_asked_to() {
    let (router, engine) = server(Script::default());
    let closed = |request: &nvllm_engine::Request| prompt_of(request).ends_with("<think>\n\n</think>\n\n");
    for (fields, is_off) in [
        (json!({}), true),
        (json!({ "thinking": { "type": "disabled" } }), true),
        (json!({ "thinking": { "type": "enabled", "budget_tokens": 1024 } }), false),
        (json!({ "thinking": { "type": "adaptive" } }), false),
    ] {
        assert_eq!(post(&router, MESSAGES, &message(&fields)).await.status, 200, "{fields}");
        assert_eq!(closed(&engine.last()), is_off, "{fields}");
    }
    let kwargs = json!({ "enable_thinking": true }).as_object().unwrap().clone();
    let (router, engine) =
        served(Script::default(), ServedOptions { chat_template_kwargs: kwargs, ..ServedOptions::default() });
    post(&router, MESSAGES, &message(&json!({}))).await;
    assert!(!closed(&engine.last()), "the server's word");
}
