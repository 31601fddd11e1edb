//! Connections that cost others nothing, bounds on what one may send, and the protocols.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nvllm_serve::{ServerOptions, TlsFiles};
use serde_json::json;

use crate::support::Script;
use crate::wire::{Reader, Running, chat, wait_for};

fn impatient() -> ServerOptions {
    let second = Duration::from_secs(1);
    ServerOptions { header_timeout: second, body_timeout: second, ..ServerOptions::default() }
}

#[test]
fn half_sent_heads_hold_nobody_up_and_are_closed_after_the_timeout() {
    let server = Running::new(Script::default(), impatient());
    let begun = Instant::now();
    // Not a byte; the beginning of either protocol; half a head.
    let starts = ["", "P", "PRI * HTTP/2.0\r\n", "GET /health HTTP/1.1\r\nHost: he"];
    let half_open: Vec<_> = (0..52).map(|at| server.send(starts[at % starts.len()])).collect();
    assert_eq!(server.chat(&json!({})).answer().status, 200);
    let answered = begun.elapsed();
    for mut connection in half_open {
        let said = connection.rest();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
    assert!(answered < Duration::from_secs(1) && begun.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let server = Running::new(Script::default(), impatient());
    let whole = chat(&json!({}));
    let mut client = server.send(&whole[..whole.len() - 5]);
    let answer = client.answer();
    assert_eq!(answer.status, 408);
    assert_eq!(answer.json()["error"]["param"], "body");
    assert!(server.engine.asked.lock().unwrap().is_empty());
}

#[test]
fn a_large_body_is_refused_with_the_limit_and_half_of_it_is_not_read() {
    let options = ServerOptions { max_body_size: 1000, ..ServerOptions::default() };
    let server = Running::new(Script::default(), options);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\n";
    // Nothing of it is sent.
    let mut client = server.send(&format!("{head}Content-Length: 1001\r\n\r\n"));
    let answer = client.answer();
    assert_eq!(answer.status, 413);
    let error = &answer.json()["error"];
    assert!(error["message"].as_str().unwrap().contains("1000 bytes"), "{error}");
    assert_eq!((&error["type"], &error["param"]), (&json!("request_too_large"), &json!("body")));
    // One that does not say how long it is.
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let mut client = server.send(&format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}"));
    assert_eq!(client.answer().status, 413);
    // More than the framework's own limit, and less than ours.
    let server = Running::new(Script::default(), ServerOptions::default());
    let mut client = server.chat(&json!({ "user": "x".repeat(3 << 20) }));
    assert_eq!(client.answer().status, 200);
}

#[test]
fn what_cannot_be_taken_is_refused_before_its_body_has_come() {
    let full = Script { full: true, ..Script::default() };
    let draining = Script { health: nvllm_engine::Health::Draining, ..Script::default() };
    for (script, status) in [(full, 429), (draining, 503)] {
        let server = Running::new(script, ServerOptions::default());
        let whole = chat(&json!({}));
        let answer = server.send(&whole[..whole.len() - 5]).answer();
        assert_eq!((answer.status, answer.header("retry-after")), (status, Some("1")));
    }
}

#[test]
fn bodies_have_a_common_bound_and_leave_room_when_they_go() {
    let options = ServerOptions { max_body_size: 1000, ..ServerOptions::default() };
    let server = Running::new(Script::default(), options);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n";
    // Who announces much and sends nothing takes nothing.
    let _silent: Vec<_> = (0..20).map(|_| server.send(head)).collect();
    assert_eq!(server.chat(&json!({})).answer().status, 200);
    let unfinished = format!("{head}{}", " ".repeat(999));
    let mut held: Vec<_> = (0..8).map(|_| server.send(&unfinished)).collect();
    let refused = wait_for(|| {
        // One whose last bytes came beside a chat was refused itself.
        held.push(server.send(&unfinished));
        let answer = server.chat(&json!({})).answer();
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.json()["error"]["type"], "overloaded_error");
    // What has no body needs none.
    assert_eq!(server.get("/v1/models").status, 200);
    drop(held);
    wait_for(|| (server.chat(&json!({})).answer().status == 200).then_some(()));
}

/// What an HTTP/2 client gets for a chat.
async fn over_http2<S>(stream: S) -> String
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = axum::http::Request::post("http://here/v1/chat/completions").body(()).unwrap();
    let (response, mut body) = client.ready().await.unwrap().send_request(request, false).unwrap();
    let json = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "hi" }] });
    body.send_data(Bytes::from(json.to_string()), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(bytes) = body.data().await {
        text.extend_from_slice(&bytes.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn http2_is_spoken_to_who_begins_with_it() {
    let server = Running::new(Script::default(), ServerOptions::default());
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    assert!(over_http2(stream).await.contains("Paris"));
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[tokio::test]
async fn https_has_both_protocols() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let files = TlsFiles { certificates: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    std::fs::write(&files.certificates, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let tls = Some(files);
    let server = Running::new(Script::default(), ServerOptions { tls, ..ServerOptions::default() });
    let connect = |protocol: &'static [u8]| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let address = server.address;
        async move {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let name = "localhost".try_into().unwrap();
            tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
        }
    };
    assert!(over_http2(connect(b"h2").await).await.contains("Paris"));
    let mut stream = connect(b"http/1.1").await;
    let request = crate::wire::get("/v1/models", "Connection: close\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("tiny"), "{answer}");
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[test]
fn tls_files_that_cannot_be_used_are_refused_by_flag() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("empty.pem");
    std::fs::write(&file, "").unwrap();
    for (certificates, flag) in
        [(dir.path().join("none"), "--ssl-certfile"), (file.clone(), "--ssl-certfile")]
    {
        let tls = Some(TlsFiles { certificates, key: file.clone() });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let options = ServerOptions { tls, ..ServerOptions::default() };
        let error = nvllm_serve::Server::start(listener, options).unwrap_err().to_string();
        assert!(error.starts_with(flag), "{error}");
    }
}

#[test]
fn what_is_not_http_is_answered_and_closed() {
    let server = Running::new(Script::default(), ServerOptions::default());
    let mut client = server.connect();
    client.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello").unwrap();
    let said = Reader(std::io::BufReader::new(client)).rest();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{said}");
    assert_eq!(server.get("/health").status, 200);
}
