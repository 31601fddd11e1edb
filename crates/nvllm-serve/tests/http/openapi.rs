//! `/openapi.json` says what the server does: each route, each field, each error.

use std::collections::{BTreeMap, BTreeSet};

use axum::Router;
use axum::body::Body;
use axum::http::Request as HttpRequest;
use serde_json::{Map, Value, json};

use crate::support::{Script, call, get, post, server};

const METHODS: [&str; 6] = ["get", "put", "post", "delete", "options", "patch"];

pub(crate) async fn document(router: &Router) -> Value {
    let answer = get(router, "/openapi.json").await;
    assert_eq!(answer.headers["content-type"], "application/json");
    answer.json()
}

/// What `$ref`s point at, in their place.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(path) => {
            let target = document.pointer(path.trim_start_matches('#'));
            resolved(document, target.unwrap_or_else(|| panic!("{path} points at nothing")))
        }
        None => schema,
    }
}

/// The fields of an object's schema, those of its parts included.
pub(crate) fn properties(document: &Value, schema: &Value) -> Map<String, Value> {
    let schema = resolved(document, schema);
    let mut fields = schema["properties"].as_object().cloned().unwrap_or_default();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        fields.extend(properties(document, part));
    }
    fields
}

/// JSON types that a schema takes; all if it says nothing.
fn types(document: &Value, schema: &Value) -> BTreeSet<String> {
    let schema = resolved(document, schema);
    let own = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
    let mut found: BTreeSet<String> = own.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    for part in ["oneOf", "anyOf"].iter().filter_map(|of| schema[of].as_array()).flatten() {
        found.extend(types(document, part));
    }
    found
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.push((path.clone(), method.clone(), operation.clone()));
        }
    }
    operations
}

/// Paths that the router has: its `Debug` lists them.
fn paths_of(router: &Router) -> BTreeSet<String> {
    let debug = format!("{router:?}");
    // Those of stored responses, which there are none of, say so and no more.
    let fallback = |path: &&str| path.contains("__private__axum") || path.starts_with("/v1/responses/{id}");
    let quoted = debug.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/'));
    quoted.filter(|path| !fallback(path)).map(|path| path.replace("{*", "{")).collect()
}

#[tokio::test]
async fn every_route_is_described_and_the_reverse() {
    let (router, _) = server(Script::default());
    let document = document(&router).await;
    let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, method, _) in operations(&document) {
        described.entry(path).or_default().insert(method);
    }
    let paths: BTreeSet<_> = described.keys().cloned().collect();
    assert_eq!(paths_of(&router), paths);
    for (path, methods) in &described {
        let path = path.replace("{model}", "tiny").replace("{file}", "app.js");
        for method in METHODS {
            let request = HttpRequest::builder().method(&*method.to_uppercase()).uri(&path);
            let status = call(&router, request.body(Body::empty()).unwrap()).await.status.as_u16();
            assert_ne!(status, 404, "{method} {path}");
            assert_eq!(status != 405, methods.contains(method), "{method} {path}: {status}");
        }
    }
    let ids: Vec<_> =
        operations(&document).iter().map(|(.., operation)| operation["operationId"].clone()).collect();
    let names: BTreeSet<_> = ids.iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(names.len(), ids.len(), "an id is there twice: {ids:?}");
}

/// A field that is described and not read would be taken whatever its type.
#[tokio::test]
async fn every_described_field_is_read() {
    let (router, engine) = server(Script::default());
    let document = document(&router).await;
    let mut num_fields = 0;
    for (path, method, operation) in operations(&document) {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            continue;
        }
        assert_eq!(method, "post");
        let fields = properties(&document, schema);
        assert!(!fields.is_empty(), "{path} has no fields");
        for (field, schema) in fields {
            let types = types(&document, &schema);
            if types.is_empty() {
                continue;
            }
            assert!(types.contains("null"), "{path}: {field} may be null");
            let wrong = if types.contains("object") { json!(5) } else { json!({ "a": 1 }) };
            let answer = post(&router, &path, &json!({ &*field: wrong })).await;
            let error = answer.json();
            // Anthropic's form has no `param`, but every message begins with it.
            let message = error["error"]["message"].as_str().unwrap_or_default();
            assert!(answer.status == 400 && message.starts_with(&*field), "{path}: {field}: {error}");
            num_fields += 1;
        }
    }
    assert!(num_fields > 100, "{num_fields}");
    assert!(engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn nulls_are_as_good_as_nothing() {
    let (router, _) = server(Script::default());
    let document = document(&router).await;
    for (path, given) in [
        ("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "hi" }] })),
        ("/v1/completions", json!({ "prompt": "hi" })),
        ("/v1/embeddings", json!({ "input": "hi" })),
        ("/tokenize", json!({ "prompt": "hi" })),
        ("/detokenize", json!({ "tokens": [1] })),
    ] {
        let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        let fields = properties(&document, schema).into_iter().map(|(field, _)| (field, Value::Null));
        let mut body: Map<String, Value> = fields.collect();
        body.extend(given.as_object().unwrap().clone());
        let answer = post(&router, path, &body.into()).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn every_error_has_one_form() {
    let (router, _) = server(Script::default());
    let document = document(&router).await;
    for (path, _, operation) in operations(&document) {
        if ["/openapi.json", "/docs", "/health/ready", "/", "/page/{file}"].contains(&&*path) {
            continue;
        }
        for status in ["400", "401", "404", "413", "429", "500", "503"] {
            let schema = &operation["responses"][status]["content"]["application/json"]["schema"];
            let form = if path.starts_with("/v1/messages") { "MessagesError" } else { "ErrorBody" };
            assert_eq!(schema["$ref"], format!("#/components/schemas/{form}"), "{path} {status}");
        }
    }
    let body = &document["components"]["schemas"]["ErrorBody"];
    let described = properties(&document, &body["properties"]["error"]).into_iter();
    let sent = post(&router, "/tokenize", &json!({})).await.json();
    let sent: BTreeSet<_> = sent["error"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(described.map(|(field, _)| field).collect::<BTreeSet<_>>(), sent);
}

#[tokio::test]
async fn every_reference_points_at_something() {
    fn check(document: &Value, at: &Value) {
        match at {
            Value::Object(fields) if fields.contains_key("$ref") => _ = resolved(document, at),
            Value::Object(fields) => fields.values().for_each(|value| check(document, value)),
            Value::Array(values) => values.iter().for_each(|value| check(document, value)),
            _ => {}
        }
    }
    let (router, _) = server(Script::default());
    let document = document(&router).await;
    check(&document, &document);
    assert!(get(&router, "/docs").await.text().contains("openapi.json"));
}

#[tokio::test]
async fn the_examples_are_taken() {
    let (router, _) = server(Script::default());
    let document = document(&router).await;
    let mut num_examples = 0;
    for (path, _, operation) in operations(&document) {
        let content = &operation["requestBody"]["content"]["application/json"];
        let named = content["examples"].as_object().into_iter().flat_map(Map::values);
        for example in named.map(|example| &example["value"]).chain(content.get("example")) {
            let answer = post(&router, &path, example).await;
            assert_eq!(answer.status, 200, "{path} {example}: {}", answer.text());
            num_examples += 1;
        }
    }
    assert!(num_examples >= 6, "{num_examples}");
}
