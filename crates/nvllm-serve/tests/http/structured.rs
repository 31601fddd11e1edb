//! Answers that are to follow a schema, a regular expression, choices or a grammar.

use nvllm_engine::FinishReason;
use serde_json::{Value, json};

use crate::support::{Script, post, server};

const CHAT: &str = "/v1/chat/completions";

fn with(fields: &Value) -> Value {
    let mut body =
        json!({ "messages": [{ "role": "user", "content": "hi" }], "prompt": "hi", "input": "hi" });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn schema() -> Value {
    json!({ "type": "object", "properties": { "b": { "type": "integer" }, "a": { "type": "string" } },
            "required": ["a"], "additionalProperties": false })
}

#[tokio::test]
async fn every_form_reaches_the_engine_as_a_grammar() {
    let (router, engine) = server(Script::default());
    let json_schema = json!({ "name": "n", "strict": true, "schema": schema() });
    for fields in [
        json!({ "response_format": { "type": "json_object" } }),
        json!({ "response_format": { "type": "json_schema", "json_schema": json_schema } }),
        json!({ "structured_outputs": { "json": schema() } }),
        json!({ "structured_outputs": { "regex": "[a-z]+" }, "n": 2 }),
        json!({ "structured_outputs": { "choice": ["yes", "no"] }, "stream": true }),
        json!({ "structured_outputs": { "grammar": "start: \"a\"+" } }),
        json!({ "structured_outputs": { "json_object": true } }),
        json!({ "guided_json": schema().to_string() }),
        json!({ "guided_regex": "[a-z]+" }),
        json!({ "guided_choice": ["yes", "no"] }),
        json!({ "guided_grammar": "start: \"a\"+" }),
    ] {
        for route in [CHAT, "/v1/completions"] {
            let answer = post(&router, route, &with(&fields)).await;
            assert_eq!(answer.status, 200, "{route} {fields}: {}", answer.text());
            assert!(engine.last().grammar.is_some(), "{route} {fields}");
        }
    }
    for fields in [json!({}), json!({ "response_format": { "type": "text" } })] {
        assert_eq!(post(&router, CHAT, &with(&fields)).await.status, 200);
        assert!(engine.last().grammar.is_none(), "{fields}");
    }
    // Of every prompt.
    let prompts = json!({ "prompt": ["a", "b"], "guided_regex": "[a-z]+" });
    assert_eq!(post(&router, "/v1/completions", &prompts).await.status, 200);
    let asked = engine.asked.lock().unwrap();
    assert!(asked[asked.len() - 2..].iter().all(|request| request.grammar.is_some()));
}

#[tokio::test]
async fn a_response_repeats_the_format_that_it_follows() {
    let (router, engine) = server(Script::default());
    let format = json!({ "type": "json_schema", "name": "n", "schema": schema(), "strict": true });
    let body = json!({ "input": "hi", "text": { "format": format } });
    let answer = post(&router, "/v1/responses", &body).await.json();
    assert_eq!(answer["text"]["format"], format, "{answer}");
    assert!(engine.last().grammar.is_some());
    for (format, param) in [
        (json!({ "type": "xml" }), "text.format.type"),
        (json!({ "type": "json_schema" }), "text.format.schema"),
        (json!({ "type": "json_schema", "schema": { "type": "sting" } }), "text.format.schema"),
    ] {
        let answer =
            post(&router, "/v1/responses", &json!({ "input": "hi", "text": { "format": format } })).await;
        let error = answer.json();
        assert_eq!((answer.status.as_u16(), &error["error"]["param"]), (400, &json!(param)), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused_by_name_and_nothing_runs() {
    let (router, engine) = server(Script::default());
    let outputs = |field: &str, value: Value| json!({ "structured_outputs": { field: value } });
    let mut deep = json!({ "type": "string" });
    for _ in 0..50 {
        deep = json!({ "type": "array", "items": { "anyOf": [deep.clone(), { "type": "array", "items": { "type": "null" } }] } });
    }
    for (fields, param) in [
        (json!({ "response_format": { "type": "xml" } }), "response_format.type"),
        (json!({ "response_format": { "type": "json_schema" } }), "response_format.json_schema"),
        (json!({ "response_format": "json" }), "response_format"),
        (outputs("json", json!({ "type": "sting" })), "structured_outputs.json"),
        (outputs("json", json!([])), "structured_outputs.json"),
        (outputs("json", json!("{")), "structured_outputs.json"),
        (outputs("json", json!({ "type": "array", "uniqueItems": true })), "structured_outputs.json"),
        (outputs("json", json!({ "type": "integer", "multipleOf": 999_983 })), "structured_outputs.json"),
        (outputs("regex", json!("(")), "structured_outputs.regex"),
        (outputs("regex", json!(5)), "structured_outputs.regex"),
        (outputs("regex", json!("a(?=b)")), "structured_outputs.regex"),
        (outputs("regex", json!("a".repeat(300_000))), "structured_outputs.regex"),
        (outputs("choice", json!([])), "structured_outputs.choice"),
        (outputs("choice", json!([1])), "structured_outputs.choice[0]"),
        (outputs("grammar", json!("root ::= \"a\"")), "structured_outputs.grammar"),
        (outputs("structural_tag", json!({})), "structured_outputs.structural_tag"),
        (json!({ "structured_outputs": {} }), "structured_outputs"),
        (
            json!({ "structured_outputs": { "regex": "a", "json_object": true } }),
            "structured_outputs.json_object",
        ),
        (json!({ "guided_regex": "a", "response_format": { "type": "json_object" } }), "guided_regex"),
        (json!({ "guided_choice": "a" }), "guided_choice"),
        (json!({ "ebnf": "root ::= \"a\"" }), "ebnf"),
    ] {
        let answer = post(&router, CHAT, &with(&fields)).await;
        let error = answer.json();
        let shown = fields.to_string().chars().take(120).collect::<String>();
        assert_eq!(
            (answer.status.as_u16(), &error["error"]["param"]),
            (400, &json!(param)),
            "{shown}: {error}"
        );
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(param) && message.lines().count() == 1, "{message}");
    }
    // Compiled or refused, and no failure of the server.
    let status = post(&router, CHAT, &with(&outputs("json", deep))).await.status.as_u16();
    assert!([200, 400].contains(&status), "{status}");
    assert!(engine.asked.lock().unwrap().len() <= 1);
}

#[tokio::test]
async fn ends_of_structured_answers() {
    let complete = Script { reason: FinishReason::Complete, ..Script::default() };
    let (router, _) = server(complete);
    let answer = post(&router, CHAT, &with(&json!({}))).await.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    // What a request bars is its own fault.
    let error = Some("no token is left".to_owned());
    let (router, _) = server(Script { reason: FinishReason::Barred, error, ..Script::default() });
    let answer = post(&router, CHAT, &with(&json!({}))).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("no token is left"));
}
