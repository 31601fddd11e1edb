//! Any value in any field: an answer, or a refusal that says what is wrong; never a fault of ours.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::openapi::{document, properties};
use crate::support::{Script, post, server};

/// Values that clients send by mistake, and those at the ends of ranges.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0), Just(1), Just(-1), Just(i64::MAX), Just(i64::MIN), -5_i64..50]
            .prop_map(Value::from),
        Just(json!(u64::MAX)),
        prop_oneof![Just(0.5), Just(-1e300), Just(1e300), Just(1e-300)].prop_map(|x: f64| json!(x)),
        "(<\\|im_end\\|>|\\PC|[a-z]|\u{FDD0}){0,12}".prop_map(Value::from),
        prop_oneof![Just("text"), Just("user"), Just("auto"), Just("none"), Just("float")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec(("[a-z_]{1,8}|role|content|type|text", inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

#[test]
fn any_value_in_any_field_is_answered_or_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (router, _) = server(Script::default());
    let document = runtime.block_on(document(&router));
    let message = json!([{ "role": "user", "content": "hi" }]);
    let routes: Vec<(&str, Value, Vec<String>)> = [
        ("/v1/chat/completions", json!({ "messages": message })),
        ("/v1/completions", json!({ "prompt": "hi" })),
        ("/v1/responses", json!({ "input": "hi" })),
        ("/v1/messages", json!({ "messages": message, "max_tokens": 4 })),
        ("/v1/embeddings", json!({ "input": "hi" })),
        ("/tokenize", json!({ "prompt": "hi" })),
        ("/detokenize", json!({ "tokens": [1] })),
    ]
    .into_iter()
    .map(|(path, base)| {
        let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        let fields = properties(&document, schema).into_iter().map(|(field, _)| field).collect();
        (path, base, fields)
    })
    .collect();
    let places = any::<prop::sample::Index>();
    let strategy = (0..routes.len(), proptest::collection::vec((places, any_json()), 1..4));
    let run = |(route, values): (usize, Vec<(prop::sample::Index, Value)>)| {
        let (path, base, fields) = &routes[route];
        let mut body = base.clone();
        for (place, value) in values {
            body[place.get(fields)] = value;
        }
        let answer = runtime.block_on(post(&router, path, &body));
        let status = answer.status.as_u16();
        // Clients send again what is refused with 408, 409, 429 or any 5xx.
        prop_assert!([200, 400, 404, 413].contains(&status), "{path} {body}: {status} {}", answer.text());
        if status != 200 {
            let error: Value = answer.json();
            prop_assert!(error["error"]["message"].is_string(), "{path} {body}: {error}");
        }
        Ok(())
    };
    TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })
        .run(&strategy, run)
        .unwrap();
}
