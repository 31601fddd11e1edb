//! What a collector of traces is told.

use std::io::BufReader;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use nvllm_serve::{ServerOptions, TlsFiles, Traces};
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

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

/// Warnings of all threads of the tests.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Warnings;

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.target().starts_with("nvllm_serve")
    }

    fn event(&self, event: &Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        WARNINGS.lock().unwrap_or_else(PoisonError::into_inner).push(message.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Serves requests whose spans go to `url`, ends the server, and returns the warnings about it.
fn warnings_of(url: &str) -> Vec<String> {
    // Of the whole program, as spans are sent by a thread of their own; set once.
    let _ = tracing::subscriber::set_global_default(Warnings);
    let traces = Some(Arc::new(Traces::new(url).unwrap()));
    let server = Running::new(Script::default(), ServerOptions { traces, ..ServerOptions::default() });
    let ask = || {
        let body = json!({ "model": "tiny", "prompt": "hi" });
        assert_eq!(server.send(&post("/v1/completions", "", &body)).answer().status, 200);
    };
    ask();
    let of_url = || -> Vec<String> {
        let all = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|line| line.contains(url)).cloned().collect()
    };
    crate::wire::wait_for(|| (!of_url().is_empty()).then_some(()));
    // Another message, which is not told of.
    ask();
    server.shut_down(PATIENCE).join().unwrap();
    of_url()
}

#[test]
fn a_collector_that_is_down_costs_one_warning_and_no_request() {
    // Nobody listens there any more.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let warnings = warnings_of(&format!("http://{address}"));
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn a_collector_that_nobody_vouches_for_costs_one_warning_and_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let (certificates, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&certificates, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = Some(TlsFiles { certificates, key });
    let collector = Running::new(Script::default(), ServerOptions { tls, ..ServerOptions::default() });
    let warnings = warnings_of(&format!("https://localhost:{}", collector.address.port()));
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("certificate"), "{warnings:?}");
}
