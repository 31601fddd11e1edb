//! The demo model calls a function and is told the result, on every route.

use serde_json::{Value, json};

use crate::support::Server;

const QUESTION: &str = "What is the weather in Paris?";
const RESULT: &str = "mild, 18 degrees";

/// What the demo model was trained with, as its golden text has it.
fn functions() -> [(&'static str, &'static str, Value); 2] {
    let city = json!({ "type": "string", "description": "City name" });
    let number = json!({ "type": "integer" });
    [
        (
            "get_weather",
            "Get the current weather for a city",
            json!({ "type": "object", "properties": { "city": city }, "required": ["city"] }),
        ),
        (
            "add",
            "Add two numbers",
            json!({ "type": "object", "properties": { "a": number, "b": number }, "required": ["a", "b"] }),
        ),
    ]
}

async fn answer(server: &Server, path: &str, body: &Value) -> Value {
    let answer = server.post(path, body).await.unwrap();
    let (status, answer) = (answer.status(), answer.json::<Value>().await.unwrap());
    assert_eq!(status, 200, "{body}: {answer}");
    answer
}

fn paris(arguments: &Value) -> bool {
    serde_json::from_str::<Value>(arguments.as_str().unwrap()).unwrap() == json!({ "city": "Paris" })
}

#[tokio::test]
async fn the_demo_model_calls_a_tool_and_goes_on_on_every_route() {
    let server = Server::start(&[]).await;
    let user = json!({ "role": "user", "content": QUESTION });
    let base = json!({ "temperature": 0, "repetition_penalty": 1 });
    let with = |fields: Value| {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };

    let tools = functions().map(|(name, description, parameters)| {
        json!({ "type": "function", "function": { "name": name, "description": description, "parameters": parameters } })
    });
    let chat = |messages: Value| {
        with(json!({ "enable_thinking": false, "max_tokens": 64, "tools": tools, "messages": messages }))
    };
    let called = answer(&server, "/v1/chat/completions", &chat(json!([user]))).await;
    let message = &called["choices"][0]["message"];
    assert_eq!(
        (&called["choices"][0]["finish_reason"], &message["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let call = &message["tool_calls"][0];
    assert!(call["function"]["name"] == "get_weather" && paris(&call["function"]["arguments"]), "{call}");
    let result = json!({ "role": "tool", "tool_call_id": call["id"], "content": RESULT });
    let told = answer(&server, "/v1/chat/completions", &chat(json!([user, message, result]))).await;
    let chat_text = told["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!chat_text.is_empty() && told["choices"][0]["finish_reason"] == "stop", "{told}");

    let tools = functions().map(|(name, description, parameters)| {
        json!({ "type": "function", "name": name, "description": description, "parameters": parameters })
    });
    let response = |input: Value| {
        with(json!({ "enable_thinking": false, "max_output_tokens": 64, "tools": tools, "input": input }))
    };
    let called = answer(&server, "/v1/responses", &response(json!([user]))).await;
    let call = &called["output"][0];
    assert!(call["type"] == "function_call" && paris(&call["arguments"]), "{call}");
    let result = json!({ "type": "function_call_output", "call_id": call["call_id"], "output": RESULT });
    let told = answer(&server, "/v1/responses", &response(json!([user, call, result]))).await;
    assert_eq!(told["output"][0]["content"][0]["text"], chat_text, "the prompt is the same");

    let tools = functions().map(|(name, description, parameters)| {
        json!({ "name": name, "description": description, "input_schema": parameters })
    });
    let turns = |messages: Value| with(json!({ "max_tokens": 64, "tools": tools, "messages": messages }));
    let called = answer(&server, "/v1/messages", &turns(json!([user]))).await;
    let block = &called["content"][0];
    assert_eq!((&called["stop_reason"], &block["input"]), (&json!("tool_use"), &json!({ "city": "Paris" })));
    let said = json!({ "role": "assistant", "content": called["content"] });
    let result = json!({ "role": "user", "content": [{ "type": "tool_result", "tool_use_id": block["id"], "content": RESULT }] });
    let told = answer(&server, "/v1/messages", &turns(json!([user, said, result]))).await;
    assert_eq!(told["content"][0]["text"], chat_text, "the prompt is the same");
    server.wait_until_idle().await;
}
