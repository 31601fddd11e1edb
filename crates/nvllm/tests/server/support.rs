//! A server in a process of its own, and clients that read its streams.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use reqwest::Response;
use serde_json::{Value, json};

/// How long a server may take until it is ready, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_mins(2);

/// A server that is ready; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
}

impl Server {
    /// Starts `nvllm serve` on a free port, with these flags, and waits until it is ready.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nvllm"))
            .args(["serve", "--port", "0", "--backend", "cpu"])
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = loop {
            let line = lines.next().expect("the server says where it listens").unwrap();
            if let Some(at) = line.find("http://") {
                break line[at..].split_whitespace().next().unwrap().trim_end_matches([',', '/']).to_owned();
            }
        };
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("server: {line}")));
        let http = reqwest::Client::builder().pool_max_idle_per_host(1024).no_proxy().build().unwrap();
        let server = Self { child, url, http };
        let began = Instant::now();
        while server.get("/health/ready").await.is_none_or(|answer| answer.status() != 200) {
            assert!(began.elapsed() < PATIENCE, "the server is not ready after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server
    }

    pub(crate) async fn get(&self, path: &str) -> Option<Response> {
        self.http.get(format!("{}{path}", self.url)).send().await.ok()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> reqwest::Result<Response> {
        self.http.post(format!("{}{path}", self.url)).json(body).send().await
    }

    /// The sum of a metric over its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.unwrap().text().await.unwrap();
        let lines = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let values: Vec<f64> = lines.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
        assert!(!values.is_empty(), "no metric {name}");
        values.iter().sum()
    }

    /// Waits until nothing runs, waits or holds a KV block; fails if that takes too long.
    pub(crate) async fn wait_until_idle(&self) {
        let began = Instant::now();
        loop {
            let running = self.metric("nvllm:num_requests_running").await;
            let waiting = self.metric("nvllm:num_requests_waiting").await;
            let cache = self.metric("nvllm:kv_cache_usage_perc").await;
            if running == 0.0 && waiting == 0.0 && cache == 0.0 {
                return;
            }
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "{running} run, {waiting} wait, {cache} of the cache is in use, and nobody is there"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Resident bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for the process's end.
    pub(crate) async fn exit_status(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the server does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With a finish reason and `[DONE]`.
    Done,
    /// The server said why not.
    Told(String),
    /// Refused with this status before it began.
    Refused(u16),
    /// Without a word: what must not be.
    BrokeOff(String),
}

/// A request of `len` tokens, whatever the model says.
pub(crate) fn request(seed: usize, len: usize) -> Value {
    json!({
        "prompt": format!("Chapter {seed}. Once upon a time"), "max_tokens": len, "ignore_eos": true,
        "seed": seed, "stream": true, "stream_options": { "include_usage": true },
    })
}

/// Reads a stream to its end; `chunks` counts what came.
pub(crate) async fn read(answer: reqwest::Result<Response>, chunks: &mut usize) -> Ended {
    let mut answer = match answer {
        Err(e) => return Ended::BrokeOff(e.to_string()),
        Ok(answer) if answer.status() != 200 => return Ended::Refused(answer.status().as_u16()),
        Ok(answer) => answer,
    };
    let mut text = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(bytes)) => {
                *chunks += bytes.windows(6).filter(|window| window == b"data: ").count();
                text.extend_from_slice(&bytes);
            }
            Ok(None) => break,
            Err(e) => return Ended::BrokeOff(e.to_string()),
        }
    }
    let text = String::from_utf8(text).unwrap();
    if text.ends_with("data: [DONE]\n\n") && text.contains("\"finish_reason\":\"length\"") {
        return Ended::Done;
    }
    match text.rsplit_once("event: error\ndata: ") {
        Some((_, error)) => Ended::Told(error.trim().to_owned()),
        None => Ended::BrokeOff(text.chars().rev().take(200).collect::<Vec<_>>().iter().rev().collect()),
    }
}

/// Asks for a stream and reads it to its end.
pub(crate) async fn stream(server: &Server, body: &Value) -> Ended {
    read(server.post("/v1/completions", body).await, &mut 0).await
}
