//! What a collector of traces is told.

use std::io::BufReader;
use std::net::TcpListener;
use std::sync::Arc;

use nvllm_serve::{ServerOptions, Traces};
use serde_json::{Value, json};

use crate::support::{Script, tokens};
use crate::wire::{PATIENCE, Reader, Running, get, post};

/// Takes one message as a collector does.
fn collect(listener: &TcpListener) -> Value {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = Reader(BufReader::new(stream));
    let head = reader.until("\r\n\r\n");
    assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
    let len =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; len.unwrap_or_else(|| panic!("no length: {head}"))];
    std::io::Read::read_exact(&mut reader.0, &mut body).unwrap();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    std::io::Write::write_all(reader.0.get_mut(), answer).unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn a_request_is_a_span_of_its_callers_trace() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let traces = Some(Arc::new(Traces::new(&url).unwrap()));
    let server = Running::new(Script::default(), ServerOptions { traces, ..ServerOptions::default() });
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let header = |flags: &str| format!("traceparent: 00-{trace}-{parent}-{flags}\r\nX-Request-Id: mine\r\n");
    let body = json!({ "model": "tiny", "prompt": "hi" });
    // Neither probes nor what the caller does not record.
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.send(&get("/v1/models", &header("00"))).answer().status, 200);
    assert_eq!(server.send(&post("/v1/completions", &header("01"), &body)).answer().status, 200);
    let ended = server.shut_down(PATIENCE);
    let told = collect(&collector);
    ended.join().unwrap();
    let spans = told["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 1, "{told}");
    let span = &spans[0];
    assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(trace), &json!(parent)));
    assert_eq!(span["name"], "POST /v1/completions");
    assert_eq!(span["spanId"].as_str().map(str::len), Some(16));
    let time = |name: &str| span[name].as_str().unwrap().parse::<u128>().unwrap();
    assert!(0 < time("startTimeUnixNano") && time("startTimeUnixNano") <= time("endTimeUnixNano"));
    let attribute = |key: &str| {
        let all = span["attributes"].as_array().unwrap();
        all.iter().find(|attribute| attribute["key"] == key).unwrap_or_else(|| panic!("{key}"))["value"]
            .clone()
    };
    assert_eq!(attribute("http.response.status_code"), json!({ "intValue": "200" }));
    assert_eq!(attribute("gen_ai.request.id"), json!({ "stringValue": "mine" }));
    assert_eq!(
        attribute("gen_ai.usage.prompt_tokens"),
        json!({ "intValue": tokens("hi").len().to_string() })
    );
    assert!(attribute("gen_ai.latency.time_to_first_token")["doubleValue"].is_f64());
}
