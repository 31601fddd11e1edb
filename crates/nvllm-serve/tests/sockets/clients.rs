//! Clients that go, and clients that do not read.

use nvllm_serve::ServerOptions;
use serde_json::json;

use crate::support::Script;
use crate::wire::Running;

#[test]
fn a_client_that_goes_while_it_streams_frees_its_request() {
    let server = Running::endless();
    let mut client = server.chat(&json!({ "stream": true }));
    let id = server.open_requests(1)[0];
    server.token(id, "so").unwrap();
    client.until("\"content\":\"so\"");
    drop(client);
    server.wait_for_abort(id);
}

#[test]
fn a_client_that_goes_while_it_waits_frees_its_request() {
    let server = Running::endless();
    let client = server.chat(&json!({}));
    let id = server.open_requests(1)[0];
    drop(client);
    server.wait_for_abort(id);
    assert_eq!(server.in_flight.num_requests(), 0);
}

#[test]
fn a_client_that_does_not_read_ends_its_own_request_and_no_other() {
    let server = Running::endless();
    let mut reader = server.chat(&json!({ "stream": true }));
    let reads = server.open_requests(1)[0];
    let _idle = server.chat(&json!({ "stream": true }));
    let stalls = server.open_requests(2)[1];
    let text = "x".repeat(8192);
    let sent = (0..1_000_000).take_while(|_| server.token(stalls, &text).is_ok()).count();
    // Some were in the buffers of sockets, the rest is bounded.
    assert!((1024..100_000).contains(&sent), "{sent}");
    for _ in 0..10 {
        server.token(reads, "y").unwrap();
    }
    server.finish(reads);
    let all = reader.until("data: [DONE]");
    assert_eq!(all.matches("\"content\":\"y\"").count(), 10, "{all}");
}

#[test]
fn many_requests_go_over_one_connection() {
    let server = Running::new(Script::default(), ServerOptions::default());
    let mut client = server.chat(&json!({}));
    for _ in 0..3 {
        assert_eq!(client.answer().status, 200);
        let again = crate::wire::chat(&json!({}));
        std::io::Write::write_all(client.0.get_mut(), again.as_bytes()).unwrap();
    }
    assert!(client.answer().body.contains("Paris"));
}
