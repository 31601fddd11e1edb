//! The life of a server: loading, draining, the end.

use std::time::{Duration, Instant};

use nvllm_serve::ServerOptions;
use serde_json::json;

use crate::support::Script;
use crate::wire::{PATIENCE, Reader, Running, chat, get, wait_for};

#[test]
fn before_there_is_a_model_requests_are_told_to_wait() {
    let server = Running::loading(Script::default(), ServerOptions::default());
    assert_eq!(server.get("/health").status, 200);
    let ready = server.get("/health/ready");
    assert_eq!((ready.status, ready.json()), (503, json!({ "status": "loading", "progress": 0.0 })));
    // The page shows that, and asks again by itself.
    assert_eq!((server.get("/").status, server.get("/page/app.js").status), (200, 200));
    let answer = server.chat(&json!({})).answer();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(answer.json()["error"]["type"], "overloaded_error");
    server.open();
    assert_eq!(server.get("/health/ready").status, 200);
    assert_eq!(server.chat(&json!({})).answer().status, 200);
}

#[test]
fn draining_refuses_what_is_new_and_ends_what_runs() {
    let server = Running::endless();
    let mut idle = server.send(&get("/version", ""));
    assert_eq!(idle.answer().status, 200);
    let mut client = server.chat(&json!({ "stream": true }));
    let id = server.open_requests(1)[0];
    let (address, engine) = (server.address, server.engine.clone());
    let ended = server.shut_down(PATIENCE);
    let again = |request: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        Reader(std::io::BufReader::new(stream))
    };
    let mut ready = wait_for(|| {
        let mut reader = again(&get("/health/ready", ""));
        let answer = reader.answer();
        (answer.status == 503).then_some((reader, answer))
    });
    assert_eq!(ready.1.json()["status"], "draining");
    // Its connection ends with the answer.
    assert_eq!((ready.1.header("connection"), ready.0.rest()), (Some("close"), String::new()));
    let refused = again(&chat(&json!({}))).answer();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    // A connection from before still gets its answer, and that was its last.
    std::io::Write::write_all(idle.0.get_mut(), chat(&json!({})).as_bytes()).unwrap();
    assert_eq!(idle.answer().status, 503);
    assert_eq!(idle.rest(), "");
    let mut sink = engine.open.lock().unwrap().remove(&id).unwrap();
    let request = engine.last();
    let reason = nvllm_engine::FinishReason::Length;
    let end = crate::support::finished(&request, 0, reason, None, 0);
    sink.send(nvllm_engine::Event::Finished(end)).unwrap();
    drop(sink);
    let all = client.rest();
    assert!(all.contains("\"finish_reason\":\"length\"") && all.contains("data: [DONE]"), "{all}");
    assert_eq!(ended.join().unwrap().aborted, 0);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn what_runs_longer_than_the_timeout_is_told() {
    let server = Running::endless();
    let mut streams = server.chat(&json!({ "stream": true }));
    server.open_requests(1);
    let mut waits = server.chat(&json!({}));
    server.open_requests(2);
    let begun = Instant::now();
    let drained = server.shut_down(Duration::from_millis(200)).join().unwrap();
    assert_eq!(drained.aborted, 2);
    let all = streams.rest();
    assert!(all.contains("event: error\ndata: {\"error\":{\"message\""), "{all}");
    assert_eq!(waits.answer().status, 503);
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn idle_and_half_open_connections_do_not_hold_up_the_end() {
    let server = Running::endless();
    let mut connections: Vec<_> = ["", "GET / HT", "PRI"].map(|start| server.send(start)).into();
    let mut idle = server.send(&get("/version", ""));
    idle.answer();
    connections.push(idle);
    let begun = Instant::now();
    assert_eq!(server.shut_down(PATIENCE).join().unwrap().aborted, 0);
    assert!(begun.elapsed() < Duration::from_secs(10));
    for mut connection in connections {
        let _ = connection.rest();
    }
}
