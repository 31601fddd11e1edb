//! A server on a socket, and a client that says exactly what a test wants.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvllm_core::TokenId;
use nvllm_engine::{Event, FinishReason, Gone};
use nvllm_serve::{Drained, Generator, InFlight, ServedOptions, Server, ServerOptions};
use serde_json::{Value, json};

use crate::support::{MODEL, Script, Scripted, finished};

/// Longer than anything takes here, so that a fault ends a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server on a port of its own.
pub(crate) struct Running {
    pub(crate) server: Server,
    pub(crate) engine: Arc<Scripted>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) address: SocketAddr,
}

impl Running {
    /// A server of a script.
    pub(crate) fn new(script: Script, options: ServerOptions) -> Self {
        let running = Self::loading(script, options);
        running.open();
        running
    }

    /// A server whose answers have no end of their own.
    pub(crate) fn endless() -> Self {
        Self::new(Script { endless: true, ..Script::default() }, ServerOptions::default())
    }

    /// A server without a model.
    pub(crate) fn loading(script: Script, options: ServerOptions) -> Self {
        let listener = nvllm_serve::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let engine = Scripted::new(script);
        let in_flight = Arc::new(InFlight::new(engine.clone()));
        let server = Server::start(listener, options).unwrap();
        let address = server.address();
        Self { server, engine, in_flight, address }
    }

    /// Gives the server its model.
    pub(crate) fn open(&self) {
        let served = ServedOptions { names: vec!["tiny".into()], ..ServedOptions::default() };
        let generator: Arc<dyn Generator> = self.in_flight.clone();
        self.server.open(nvllm_serve::router(&MODEL, served, generator).unwrap());
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a whole request, and leaves the answer to be read.
    pub(crate) fn send(&self, request: &str) -> Reader {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        Reader(BufReader::new(stream))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(&get(path, "")).answer()
    }

    pub(crate) fn chat(&self, fields: &Value) -> Reader {
        self.send(&chat(fields))
    }

    /// Waits until the engine has so many requests that have not ended, and returns their ids.
    pub(crate) fn open_requests(&self, num: usize) -> Vec<u64> {
        wait_for(|| {
            let ids: Vec<_> = self.engine.open.lock().unwrap().keys().copied().collect();
            (ids.len() == num).then_some(ids)
        })
    }

    /// Waits until a request is aborted.
    pub(crate) fn wait_for_abort(&self, id: u64) {
        wait_for(|| self.engine.aborted.lock().unwrap().contains(&id).then_some(()));
    }

    /// Sends a request's client a token of this text.
    pub(crate) fn token(&self, id: u64, text: &str) -> Result<(), Gone> {
        let mut open = self.engine.open.lock().unwrap();
        let text = text.to_owned();
        open.get_mut(&id).ok_or(Gone)?.send(Event::Token {
            choice: 0,
            token: TokenId(5),
            text,
            logprobs: None,
            logits: None,
            at: Instant::now(),
        })
    }

    /// Ends a request as its model would.
    pub(crate) fn finish(&self, id: u64) {
        let mut sink = self.engine.open.lock().unwrap().remove(&id).unwrap();
        let request = self.engine.asked.lock().unwrap()[id as usize - 1].clone();
        sink.send(Event::Finished(finished(&request, 0, FinishReason::Length, None, 1))).unwrap();
    }

    /// Ends the server on a thread of its own.
    pub(crate) fn shut_down(self, timeout: Duration) -> std::thread::JoinHandle<Drained> {
        let Self { server, in_flight, .. } = self;
        std::thread::spawn(move || server.shut_down(&in_flight, timeout))
    }
}

/// Asks again and again, as what is asked for tells nobody that it has happened.
pub(crate) fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = ask() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A request without a body; `headers` are whole lines.
pub(crate) fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: here\r\n{headers}\r\n")
}

/// A request with a JSON body.
pub(crate) fn post(path: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    let len = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: here\r\n{headers}Content-Length: {len}\r\n\r\n{body}")
}

/// A chat with these fields.
pub(crate) fn chat(fields: &Value) -> String {
    let mut body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "hi" }] });
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    post("/v1/chat/completions", "", &body)
}

/// What a server sends on one connection.
pub(crate) struct Reader(pub(crate) BufReader<TcpStream>);

/// An answer of known length.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = |line: &'_ str| line.to_lowercase().starts_with(&format!("{name}: "));
        self.head.lines().find(|text| line(text)).map(|text| text[name.len() + 2..].trim_end())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.head, self.body))
    }
}

impl Reader {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    /// Reads an answer's head.
    pub(crate) fn head(&mut self) -> Answer {
        let mut head = self.line();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {head:?}"));
        while !head.ends_with("\r\n\r\n") {
            head += &self.line();
        }
        Answer { status, head, body: String::new() }
    }

    /// Reads an answer; the connection stays.
    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let len = answer.header("content-length").map_or(0, |len| len.parse().unwrap());
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).unwrap();
        answer.body = String::from_utf8(body).unwrap();
        answer
    }

    /// Reads until this text has come.
    pub(crate) fn until(&mut self, text: &str) -> String {
        let mut all = String::new();
        while !all.contains(text) {
            let line = self.line();
            assert!(!line.is_empty(), "the connection ended before {text:?}: {all}");
            all += &line;
        }
        all
    }

    /// Reads all that comes before the server closes the connection.
    pub(crate) fn rest(&mut self) -> String {
        let mut all = Vec::new();
        // A reset is an end too.
        let end = self.0.read_to_end(&mut all);
        let timed_out = |e: &std::io::Error| matches!(e.kind(), std::io::ErrorKind::WouldBlock);
        assert!(!end.as_ref().is_err_and(timed_out), "the connection stays open");
        String::from_utf8_lossy(&all).into_owned()
    }
}
