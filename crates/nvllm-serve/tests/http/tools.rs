//! Functions, on all routes that have messages.

use std::path::Path;

use nvllm_engine::hub::ModelFiles;
use nvllm_engine::text::ChatTemplate;
use nvllm_engine::{Model, ToolFormat};
use nvllm_serve::ServedOptions;
use serde_json::{Value, json};

use crate::support::{Script, Scripted, post, prompt_of, served, server, tokens};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const CALLS: &str = "I look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}\n</tool_call>";
const ARGUMENTS: [&str; 2] = ["{\"city\": \"Paris\"}", "{\"a\": 1, \"b\": 2}"];

/// An engine whose answers call functions and say nothing else.
fn calling() -> Script {
    Script { text: CALLS.strip_prefix("I look.\n").unwrap().into(), ..Script::default() }
}

fn city() -> Value {
    json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] })
}

fn numbers() -> Value {
    let number = json!({ "type": "integer" });
    json!({ "type": "object", "properties": { "a": number, "b": number }, "required": ["a", "b"] })
}

fn chat_tools() -> Value {
    let tool = |name: &str, schema: Value| json!({ "type": "function", "function": { "name": name, "description": "D.", "parameters": schema } });
    json!([tool("get_weather", city()), tool("add", numbers())])
}

fn flat_tools() -> Value {
    let tool = |name: &str, schema: Value| json!({ "type": "function", "name": name, "description": "D.", "parameters": schema, "strict": false });
    json!([tool("get_weather", city()), tool("add", numbers())])
}

fn message_tools() -> Value {
    let tool =
        |name: &str, schema: Value| json!({ "name": name, "description": "D.", "input_schema": schema });
    json!([tool("get_weather", city()), tool("add", numbers())])
}

fn extended(mut body: Value, fields: &Value) -> Value {
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn chat(fields: &Value) -> Value {
    extended(json!({ "messages": [{ "role": "user", "content": "Hi" }], "tools": chat_tools() }), fields)
}

fn response(fields: &Value) -> Value {
    extended(json!({ "input": "Hi", "tools": flat_tools() }), fields)
}

fn message(fields: &Value) -> Value {
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    extended(json!({ "messages": messages, "max_tokens": 100, "tools": message_tools() }), fields)
}

#[tokio::test]
async fn a_chats_calls_are_no_content() {
    let (router, engine) = server(calling());
    let answer = post(&router, CHAT, &chat(&json!({}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let choice = &answer.json()["choices"][0];
    let message = &choice["message"];
    assert_eq!((&message["content"], &choice["finish_reason"]), (&Value::Null, &json!("tool_calls")));
    let ids = [&message["tool_calls"][0]["id"], &message["tool_calls"][1]["id"]];
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.as_str().unwrap().starts_with("call_")));
    let call = |at: usize, name: &str| json!({ "id": ids[at], "type": "function", "function": { "name": name, "arguments": ARGUMENTS[at] } });
    assert_eq!(message["tool_calls"], json!([call(0, "get_weather"), call(1, "add")]));
    // As transformers prints them.
    let line = r#"{"type": "function", "function": {"name": "get_weather", "description": "D.", "parameters": {"type": "object", "#;
    assert!(prompt_of(&engine.last()).contains(line), "{}", prompt_of(&engine.last()));
    let (router, _) = server(Script { text: CALLS.into(), ..Script::default() });
    let body = post(&router, CHAT, &chat(&json!({}))).await.json();
    assert_eq!(body["choices"][0]["message"]["content"], "I look.");
}

#[tokio::test]
async fn a_streamed_call_has_its_id_and_name_first_and_then_arguments() {
    let (router, _) = server(Script { text: CALLS.into(), ..Script::default() });
    let fields = json!({ "stream": true, "logprobs": true, "return_token_ids": true });
    let chunks = post(&router, CHAT, &chat(&fields)).await.chunks();
    let deltas: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let content: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(content, "I look.");
    for (index, name) in ["get_weather", "add"].into_iter().enumerate() {
        let calls = deltas.iter().filter_map(|delta| delta["tool_calls"].as_array()).flatten();
        let pieces: Vec<_> = calls.filter(|call| call["index"] == index).collect();
        let (first, rest) = pieces.split_first().unwrap();
        let id = first["id"].as_str().unwrap();
        let expected = json!({ "index": index, "id": id, "type": "function", "function": { "name": name, "arguments": "" } });
        assert_eq!(**first, expected);
        // Py joins what comes twice.
        assert!(rest.iter().all(|piece| piece.as_object().unwrap().len() == 2 && piece["function"].get("name").is_none()));
        assert!(rest.len() > 1, "in fragments");
        let arguments: String =
            rest.iter().map(|piece| piece["function"]["arguments"].as_str().unwrap()).collect();
        assert_eq!(arguments, ARGUMENTS[index]);
    }
    let last = chunks.last().unwrap();
    assert_eq!(
        (&last["choices"][0]["delta"], &last["choices"][0]["finish_reason"]),
        (&json!({}), &json!("tool_calls"))
    );
    let told: Vec<_> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["token_ids"].as_array()).flatten().collect();
    assert_eq!(json!(told), json!(tokens(CALLS).iter().map(|token| token.0).collect::<Vec<_>>()));
    let scores =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array()).flatten();
    assert_eq!(scores.count(), tokens(CALLS).len());
}

#[tokio::test]
async fn a_second_call_is_left_out_where_one_is_wanted() {
    let (router, _) = server(calling());
    let body = post(&router, CHAT, &chat(&json!({ "parallel_tool_calls": false }))).await.json();
    assert_eq!(body["choices"][0]["message"]["tool_calls"].as_array().unwrap().len(), 1);
    let body = post(&router, RESPONSES, &response(&json!({ "parallel_tool_calls": false }))).await.json();
    assert_eq!((body["output"].as_array().unwrap().len(), &body["parallel_tool_calls"]), (1, &json!(false)));
    let choice = json!({ "tool_choice": { "type": "auto", "disable_parallel_tool_use": true } });
    let body = post(&router, MESSAGES, &message(&choice)).await.json();
    assert_eq!(body["content"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn with_the_choice_none_there_are_no_tools() {
    let (router, engine) = server(calling());
    let plain = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
    post(&router, CHAT, &plain).await;
    let expected = engine.last().prompt;
    let body = post(&router, CHAT, &chat(&json!({ "tool_choice": "none" }))).await.json();
    assert_eq!(engine.last().prompt, expected);
    let choice = &body["choices"][0];
    assert_eq!((choice["message"].get("tool_calls"), &choice["finish_reason"]), (None, &json!("stop")));
    assert_eq!(choice["message"]["content"], calling().text);
}

#[tokio::test]
async fn an_answer_that_is_cut_in_a_call_says_so() {
    let (router, _) = server(calling());
    let cut = tokens("<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"").len();
    let body = post(&router, CHAT, &chat(&json!({ "max_tokens": cut }))).await.json();
    let choice = &body["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["tool_calls"][0]["function"]["name"]),
        (&json!("length"), &json!("get_weather"))
    );
    let body = post(&router, RESPONSES, &response(&json!({ "max_output_tokens": cut }))).await.json();
    assert_eq!((&body["status"], &body["output"][0]["status"]), (&json!("incomplete"), &json!("incomplete")));
}

#[tokio::test]
async fn a_conversation_goes_on_with_results_on_every_route() {
    let (router, engine) = server(Script::default());
    let call = |id: &str, name: &str, arguments: &str| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } });
    let turns = chat(&json!({ "chat_template_kwargs": { "enable_thinking": false }, "messages": [
        { "role": "user", "content": "Hi" },
        { "role": "assistant", "content": "I look.", "tool_calls": [call("1", "get_weather", ARGUMENTS[0]), call("2", "add", ARGUMENTS[1])] },
        { "role": "tool", "tool_call_id": "1", "content": "mild" },
        { "role": "tool", "tool_call_id": "2", "content": [{ "type": "text", "text": "3" }] },
    ] }));
    let answer = post(&router, CHAT, &turns).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let expected = prompt_of(&engine.last());
    assert!(expected.contains(&format!("assistant\n{CALLS}<|im_end|>")), "{expected}");
    assert!(
        expected.contains("<tool_response>\nmild\n</tool_response>\n<tool_response>\n3\n</tool_response>")
    );
    let items = response(&json!({ "enable_thinking": false, "input": [
        { "role": "user", "content": "Hi" },
        { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "I look." }] },
        { "type": "function_call", "call_id": "1", "name": "get_weather", "arguments": ARGUMENTS[0] },
        { "type": "function_call", "call_id": "2", "name": "add", "arguments": ARGUMENTS[1] },
        { "type": "function_call_output", "call_id": "1", "output": "mild" },
        { "type": "function_call_output", "call_id": "2", "output": [{ "type": "input_text", "text": "3" }] },
    ] }));
    let answer = post(&router, RESPONSES, &items).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(prompt_of(&engine.last()), expected);
    let blocks = message(&json!({ "messages": [
        { "role": "user", "content": "Hi" },
        { "role": "assistant", "content": [
            { "type": "text", "text": "I look." },
            { "type": "tool_use", "id": "1", "name": "get_weather", "input": { "city": "Paris" } },
            { "type": "tool_use", "id": "2", "name": "add", "input": { "a": 1, "b": 2 } },
        ] },
        { "role": "user", "content": [
            { "type": "tool_result", "tool_use_id": "1", "content": "mild" },
            { "type": "tool_result", "tool_use_id": "2", "content": [{ "type": "text", "text": "3" }], "is_error": false },
        ] },
    ] }));
    let answer = post(&router, MESSAGES, &blocks).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(prompt_of(&engine.last()), expected);
}

#[tokio::test]
async fn a_response_has_an_item_for_each_call() {
    let (router, _) = server(calling());
    let whole = post(&router, RESPONSES, &response(&json!({}))).await.json();
    let items = whole["output"].as_array().unwrap();
    for (at, name) in ["get_weather", "add"].into_iter().enumerate() {
        let (id, call_id) = (&items[at]["id"], &items[at]["call_id"]);
        assert!(id.as_str().unwrap().starts_with("fc_") && call_id.as_str().unwrap().starts_with("call_"));
        let expected = json!({ "type": "function_call", "id": id, "status": "completed", "call_id": call_id, "name": name, "arguments": ARGUMENTS[at] });
        assert_eq!(items[at], expected);
    }
    assert_eq!(
        (&whole["status"], &whole["tools"], &whole["tool_choice"]),
        (&json!("completed"), &flat_tools(), &json!("auto"))
    );
    let events = post(&router, RESPONSES, &response(&json!({ "stream": true }))).await.named_events();
    let mut kinds: Vec<_> =
        events.iter().map(|event| event["type"].as_str().unwrap().trim_start_matches("response.")).collect();
    kinds.dedup();
    let call = [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ];
    let expected: Vec<_> =
        ["created", "in_progress"].into_iter().chain(call).chain(call).chain(["completed"]).collect();
    assert_eq!(kinds, expected);
    for (index, arguments) in ARGUMENTS.iter().enumerate() {
        let of = |kind: &str| -> Vec<&Value> {
            events
                .iter()
                .filter(|event| event["type"] == format!("response.{kind}") && event["output_index"] == index)
                .collect()
        };
        let added = &of("output_item.added")[0]["item"];
        assert_eq!((&added["arguments"], &added["status"]), (&json!(""), &json!("in_progress")));
        let deltas: String = of("function_call_arguments.delta")
            .iter()
            .map(|event| event["delta"].as_str().unwrap())
            .collect();
        let done = of("function_call_arguments.done")[0];
        assert_eq!((deltas.as_str(), done["arguments"].as_str()), (*arguments, Some(*arguments)));
        assert_eq!((&done["item_id"], &done["name"]), (&added["id"], &added["name"]));
        assert_eq!(of("output_item.done")[0]["item"]["id"], added["id"]);
    }
    let last = &events.last().unwrap()["response"]["output"];
    assert_eq!((last.as_array().unwrap().len(), &last[1]["arguments"]), (2, &json!(ARGUMENTS[1])));
}

#[tokio::test]
async fn a_message_has_a_block_for_each_call() {
    let (router, _) = server(Script { text: CALLS.into(), ..Script::default() });
    let whole = post(&router, MESSAGES, &message(&json!({}))).await.json();
    let ids = [&whole["content"][1]["id"], &whole["content"][2]["id"]];
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.as_str().unwrap().starts_with("toolu_")));
    let expected = json!([
        { "type": "text", "text": "I look." },
        { "type": "tool_use", "id": ids[0], "name": "get_weather", "input": { "city": "Paris" } },
        { "type": "tool_use", "id": ids[1], "name": "add", "input": { "a": 1, "b": 2 } },
    ]);
    assert_eq!((&whole["content"], &whole["stop_reason"]), (&expected, &json!("tool_use")));
    let events = post(&router, MESSAGES, &message(&json!({ "stream": true }))).await.named_events();
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
        "content_block_delta 0 text_delta",
        "content_block_stop 0 null",
        "content_block_start 1 null",
        "content_block_delta 1 input_json_delta",
        "content_block_stop 1 null",
        "content_block_start 2 null",
        "content_block_delta 2 input_json_delta",
        "content_block_stop 2 null",
        "message_delta null null",
        "message_stop null null",
    ];
    assert_eq!(told, expected);
    let start = events.iter().find(|event| event["index"] == 1).unwrap();
    let block =
        json!({ "type": "tool_use", "id": start["content_block"]["id"], "name": "get_weather", "input": {} });
    assert_eq!(start["content_block"], block);
    let pieces = events
        .iter()
        .filter(|event| event["index"] == 2)
        .filter_map(|event| event["delta"]["partial_json"].as_str());
    assert_eq!(pieces.collect::<String>(), ARGUMENTS[1]);
    assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "tool_use");
}

fn bad_chats() -> Vec<(Value, &'static str)> {
    let named = |name: &str| json!({ "type": "function", "function": { "name": name } });
    let results = |turns: Value| json!({ "messages": turns });
    let user = json!({ "role": "user", "content": "Hi" });
    vec![
        (json!({ "tools": [named("f"), named("f")] }), "tools[1].function.name"),
        (json!({ "tools": [{ "type": "function", "function": {} }] }), "tools[0].function.name"),
        (json!({ "tools": [{ "type": "code_interpreter" }] }), "tools[0].type"),
        (json!({ "tools": 5 }), "tools"),
        (json!({ "tool_choice": named("f") }), "tool_choice.function.name"),
        (json!({ "tool_choice": "any" }), "tool_choice"),
        (json!({ "tools": null, "tool_choice": "required" }), "tool_choice"),
        (json!({ "tools": null, "tool_choice": named("f") }), "tool_choice"),
        (results(json!([user, { "role": "tool", "content": "5" }])), "messages[1].tool_call_id"),
        (
            results(json!([user, { "role": "tool", "content": "5", "tool_call_id": "1" }])),
            "messages[1].tool_call_id",
        ),
        (
            results(
                json!([user, { "role": "assistant", "tool_calls": [{ "id": "1", "function": { "name": "f", "arguments": "{" } }] }]),
            ),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (json!({ "functions": [{ "name": "f" }] }), "functions"),
        (json!({ "thinking_token_budget": -1 }), "thinking_token_budget"),
        (json!({ "thinking": { "type": "enabled", "budget_tokens": 0 } }), "thinking.budget_tokens"),
    ]
}

#[tokio::test]
async fn what_cannot_be_met_is_refused_by_name_and_nothing_runs() {
    let (router, engine) = server(Script::default());
    let item = |item: Value| json!({ "input": [{ "role": "user", "content": "Hi" }, item] });
    let of_responses = [
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].name"),
        (
            json!({ "tools": [{ "type": "function", "name": "f", "parameters": { "type": "array" } }] }),
            "tools[0].parameters.type",
        ),
        (json!({ "tool_choice": { "type": "function", "name": "f" } }), "tool_choice.name"),
        (item(json!({ "type": "function_call", "name": "f", "arguments": "{}" })), "input[1].call_id"),
        (item(json!({ "type": "function_call", "call_id": "1", "arguments": "{}" })), "input[1].name"),
        (
            item(json!({ "type": "function_call", "call_id": "1", "name": "f", "arguments": "[" })),
            "input[1].arguments",
        ),
        (item(json!({ "type": "function_call_output", "output": "5" })), "input[1].call_id"),
        (item(json!({ "type": "function_call_output", "call_id": "1", "output": "5" })), "input[1].call_id"),
        (item(json!({ "type": "function_call_output", "call_id": "1" })), "input[1].output"),
        (item(json!({ "type": "computer_call" })), "input[1].type"),
    ];
    let block = |block: Value| json!({ "messages": [{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": [block] }] });
    let result = |block: Value| json!({ "messages": [{ "role": "user", "content": [block] }] });
    let of_messages = [
        (json!({ "tools": [{ "type": "bash_20250124", "name": "bash" }] }), "tools[0].type"),
        (json!({ "tools": [{ "input_schema": {} }] }), "tools[0].name"),
        (
            json!({ "tools": [{ "name": "f", "input_schema": { "properties": 5 } }] }),
            "tools[0].input_schema.properties",
        ),
        (json!({ "tool_choice": { "type": "tool", "name": "f" } }), "tool_choice.name"),
        (json!({ "tool_choice": { "type": "tool" } }), "tool_choice.name"),
        (json!({ "tools": [], "tool_choice": { "type": "any" } }), "tool_choice"),
        (json!({ "tool_choice": { "type": "all" } }), "tool_choice.type"),
        (block(json!({ "type": "tool_use", "name": "f", "input": {} })), "messages[1].content[0].id"),
        (
            block(json!({ "type": "tool_use", "id": "1", "name": "f", "input": [] })),
            "messages[1].content[0].input",
        ),
        (block(json!({ "type": "tool_result", "tool_use_id": "1" })), "messages[1].content[0].type"),
        (result(json!({ "type": "tool_result", "tool_use_id": "1" })), "messages[0].content[0].tool_use_id"),
        (result(json!({ "type": "tool_result" })), "messages[0].content[0].tool_use_id"),
        (
            result(json!({ "type": "tool_use", "id": "1", "name": "f", "input": {} })),
            "messages[0].content[0].type",
        ),
        (json!({ "thinking": { "type": "enabled", "budget_tokens": "many" } }), "thinking.budget_tokens"),
    ];
    let chats = bad_chats().into_iter().map(|(fields, param)| (CHAT, chat(&fields), param));
    let responses = of_responses.into_iter().map(|(fields, param)| (RESPONSES, response(&fields), param));
    let messages = of_messages.into_iter().map(|(fields, param)| (MESSAGES, message(&fields), param));
    for (path, body, param) in chats.chain(responses).chain(messages) {
        let answer = post(&router, path, &body).await;
        let error = answer.json();
        assert_eq!(answer.status, 400, "{path} {body}: {error}");
        let text = error["error"]["message"].as_str().unwrap();
        assert!(text.starts_with(param), "{path} {body}: {text} is not about {param}");
        if path != MESSAGES {
            assert_eq!(error["error"]["param"], param, "{body}");
        }
    }
    let answer = post(&router, "/v1/completions", &json!({ "prompt": "Hi", "tools": chat_tools() })).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!("tools")));
    assert!(engine.asked.lock().unwrap().is_empty());
}

/// Whether the last answer has to follow something.
fn is_bound(engine: &Scripted) -> bool {
    engine.last().grammar.is_some()
}

#[tokio::test]
async fn an_answer_follows_the_schemas_that_it_has_to() {
    let (router, engine) = server(calling());
    let strict = |on: bool| {
        let mut tools = chat_tools();
        tools[1]["function"]["strict"] = json!(on);
        json!({ "tools": tools })
    };
    let named = json!({ "type": "function", "function": { "name": "add" } });
    for (path, body, bound) in [
        (CHAT, chat(&json!({})), false),
        (CHAT, chat(&json!({ "tool_choice": "auto" })), false),
        (CHAT, chat(&strict(false)), false),
        (CHAT, chat(&strict(true)), true),
        (CHAT, chat(&json!({ "parallel_tool_calls": false })), true),
        (CHAT, chat(&json!({ "tool_choice": "required" })), true),
        (CHAT, chat(&json!({ "tool_choice": named })), true),
        (CHAT, chat(&extended(strict(true), &json!({ "tool_choice": "none" }))), false),
        (RESPONSES, response(&json!({ "tool_choice": "required" })), true),
        (RESPONSES, response(&json!({ "tool_choice": { "type": "function", "name": "add" } })), true),
        (MESSAGES, message(&json!({ "tool_choice": { "type": "any" } })), true),
        (MESSAGES, message(&json!({ "tool_choice": { "type": "tool", "name": "add" } })), true),
        (MESSAGES, message(&json!({ "tool_choice": { "type": "auto" } })), false),
    ] {
        let answer = post(&router, path, &body).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(is_bound(&engine), bound, "{body}");
    }
    let mut tools = chat_tools();
    tools[1]["function"]["parameters"]["properties"]["a"] = json!({ "type": "integer", "not": {} });
    let asked = engine.asked.lock().unwrap().len();
    for (fields, param) in [
        (json!({ "tools": tools, "tool_choice": "required" }), "tools[1].function.parameters"),
        (
            json!({ "tool_choice": "required", "response_format": { "type": "json_object" } }),
            "response_format",
        ),
        (json!({ "structured_outputs": { "regex": "a" } }), "structured_outputs.regex"),
    ] {
        let answer = post(&router, CHAT, &chat(&fields)).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status.as_u16(), &error["param"]), (400, &json!(param)), "{error}");
    }
    assert_eq!(engine.asked.lock().unwrap().len(), asked);
    // What nobody has to follow is not looked into.
    assert_eq!(post(&router, CHAT, &chat(&json!({ "tools": tools }))).await.status, 200);
}

#[tokio::test]
async fn a_template_that_has_no_place_for_tools_is_told() {
    for (template, problem) in [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "does not print them"),
        (
            "{% if tools %}{{ raise_exception('no tools, please') }}{% endif %}{{ messages[0].content }}",
            "no tools, please",
        ),
    ] {
        let options = ServedOptions { chat_template: Some(template.into()), ..ServedOptions::default() };
        let (router, engine) = served(Script::default(), options);
        let answer = post(&router, CHAT, &chat(&json!({}))).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status.as_u16(), &error["param"]), (400, &json!("tools")), "{error}");
        assert!(error["message"].as_str().unwrap().contains(problem), "{error}");
        let plain = chat(&json!({ "tools": [] }));
        assert_eq!(post(&router, CHAT, &plain).await.status, 200);
        assert_eq!(engine.asked.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_model_that_calls_in_an_unknown_way_needs_a_parser() {
    let files =
        ModelFiles::in_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nvllm-tiny"));
    let mut model = Model::open(&files.unwrap()).unwrap();
    let template = "{{ tools }}{{ messages[0].content }}";
    let template = ChatTemplate::from_parts(Some((template.as_bytes(), Path::new("t.jinja"))), None);
    model.chat_template = template.unwrap();
    for (parser, status) in [(None, 400), (Some(ToolFormat::Mistral), 200)] {
        let options = ServedOptions { tool_call_parser: parser, ..ServedOptions::default() };
        let router = nvllm_serve::router(&model, options, Scripted::new(Script::default())).unwrap();
        let answer = post(&router, CHAT, &chat(&json!({}))).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 400 {
            let error = &answer.json()["error"];
            assert_eq!(error["param"], "tools");
            assert!(error["message"].as_str().unwrap().contains("--tool-call-parser"), "{error}");
        }
    }
}

#[tokio::test]
async fn tokens_are_counted_with_tools() {
    let (router, engine) = server(Script::default());
    post(&router, CHAT, &chat(&json!({}))).await;
    let expected: Vec<u32> = engine.last().prompt.iter().map(|token| token.0).collect();
    let rendered = post(&router, &format!("{CHAT}/render"), &chat(&json!({}))).await.json();
    assert_eq!(rendered["token_ids"], json!(expected));
    let tokenized = post(&router, "/tokenize", &chat(&json!({}))).await.json();
    assert_eq!(tokenized["tokens"], json!(expected));
    let counted = post(&router, "/v1/responses/input_tokens", &response(&json!({}))).await.json();
    assert_eq!(counted["input_tokens"], expected.len());
    post(&router, MESSAGES, &message(&json!({}))).await;
    let counted = post(&router, "/v1/messages/count_tokens", &message(&json!({}))).await.json();
    assert_eq!(counted["input_tokens"], engine.last().prompt.len());
}
