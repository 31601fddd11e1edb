//! A server as its clients meet it: requests over HTTP, and when their answers came.

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, Job, NoAnswer};
use crate::record::{self, OURS};
use crate::{BenchError, Result};

/// A server's address: `http://HOST:PORT`, without the path.
#[derive(Clone, Debug)]
pub struct Url(reqwest::Url);

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = reqwest::Url::parse(text.trim_end_matches('/').trim_end_matches("/v1"));
        let url = url.map_err(|e| format!("{e}; give http://HOST:PORT"))?;
        if url.scheme() != "http" || url.host().is_none() {
            return Err("give http://HOST:PORT: TLS would be measured with it, so put nothing between".into());
        }
        Ok(Self(url))
    }
}

/// What a server says of itself.
pub(super) struct About {
    pub(super) engine: record::Engine,
    pub(super) device: Option<String>,
}

/// A client of one server.
pub(super) struct Client {
    http: reqwest::Client,
    base: reqwest::Url,
    pub(super) model: String,
    pub(super) max_model_len: Option<usize>,
}

impl Client {
    pub(super) fn new(url: &Url, api_key: Option<&str>) -> Result<Self> {
        let mut headers = reqwest::header::HeaderMap::new();
        let bad = |e: &dyn fmt::Display| BenchError::Server { problem: e.to_string() };
        if let Some(key) = api_key {
            let value =
                format!("Bearer {key}").parse().map_err(|_| bad(&"--api-key holds what no header may"))?;
            headers.insert(reqwest::header::AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .tcp_nodelay(true)
            // A connection for each request: llama-server closes each after a streamed answer while
            // it says that it keeps it, and what is sent into that moment is lost.
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .map_err(|e| bad(&e))?;
        Ok(Self { http, base: url.0.clone(), model: String::new(), max_model_len: None })
    }

    fn url(&self, path: &str) -> reqwest::Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url
    }

    /// Asks who serves which model, and keeps `model` or the first.
    pub(super) async fn about(&mut self, model: Option<&str>) -> Result<About> {
        let problem = |problem: String| BenchError::Server { problem };
        let get = async |path: &str| -> Result<Value, reqwest::Error> {
            self.http.get(self.url(path)).send().await?.error_for_status()?.json().await
        };
        let models = get("/v1/models").await.map_err(|e| problem(format!("no list of models: {e}")))?;
        let named = |card: &&Value| model.is_none_or(|name| card["id"] == name);
        let Some(card) = models["data"].as_array().and_then(|cards| cards.iter().find(named)) else {
            return Err(problem(format!("the server has no model {}", model.unwrap_or("at all"))));
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let version = get("/version").await.ok().and_then(|answer| text(&answer["version"]));
        let info = get("/server_info").await.unwrap_or_default();
        let owner = text(&card["owned_by"]).unwrap_or_else(|| "server".into());
        let about = About {
            engine: record::Engine {
                name: if owner == OURS { OURS.into() } else { owner },
                version: version.unwrap_or_else(|| "not told".into()),
                command: None,
                detail: "over HTTP, /v1/completions, streamed".into(),
            },
            device: text(&info["device"]),
        };
        let (id, len) = (text(&card["id"]), card["max_model_len"].as_u64());
        self.model = id.ok_or_else(|| problem("the server's model has no id".into()))?;
        self.max_model_len = len.map(|len| len as usize);
        Ok(about)
    }

    /// The ids of a text, if the server tells them.
    pub(super) async fn tokenize(&self, text: &str) -> Option<Vec<u32>> {
        // llama-server reads `content`, and says of other fields that there are no tokens.
        let body =
            json!({ "model": self.model, "prompt": text, "content": text, "add_special_tokens": false });
        let answer = self.http.post(self.url("/tokenize")).json(&body).send().await.ok()?;
        let answer: Value = answer.error_for_status().ok()?.json().await.ok()?;
        serde_json::from_value(answer["tokens"].clone()).ok()
    }

    /// Sums of the metrics whose names end so, over their labels, as far as there are any.
    pub(super) async fn metrics<const N: usize>(&self, suffixes: [&str; N]) -> [Option<f64>; N] {
        let text = async {
            let answer = self.http.get(self.url("/metrics")).send().await.ok()?;
            answer.error_for_status().ok()?.text().await.ok()
        };
        let text = text.await.unwrap_or_default();
        suffixes.map(|suffix| {
            let values = text.lines().filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                let name = name.split('{').next()?;
                (!line.starts_with('#') && name.ends_with(suffix)).then(|| value.parse::<f64>().ok())?
            });
            values.reduce(|sum, value| sum + value)
        })
    }

    fn body(&self, job: &Job, stream: bool) -> Value {
        let mut body = json!({
            "model": self.model, "prompt": job.prompt, "max_tokens": job.output_len, "temperature": 0,
            "ignore_eos": true, "stream": stream,
        });
        if stream {
            body["stream_options"] = json!({ "include_usage": true });
        }
        body
    }

    /// The answer's text, asked for whole.
    pub(super) async fn send_whole(&self, job: &Job) -> Result<String, NoAnswer> {
        let failed = |e: reqwest::Error| NoAnswer::Failed(e.to_string());
        let request = self.http.post(self.url("/v1/completions")).json(&self.body(job, false));
        let answer: Value =
            checked(request.send().await.map_err(failed)?).await?.json().await.map_err(failed)?;
        Ok(answer["choices"][0]["text"].as_str().unwrap_or_default().to_owned())
    }

    /// The answer, streamed.
    pub(super) async fn send(&self, job: &Job) -> Result<Answer, NoAnswer> {
        let sent = Instant::now();
        let failed = |e: reqwest::Error| NoAnswer::Failed(e.to_string());
        let request = self.http.post(self.url("/v1/completions")).json(&self.body(job, true));
        let mut response = checked(request.send().await.map_err(failed)?).await?;
        let mut reading = Reading::default();
        while let Some(bytes) = response.chunk().await.map_err(failed)? {
            let at = sent.elapsed().as_secs_f64();
            reading.take_in(&bytes, at)?;
        }
        reading.answer()
    }
}

/// Errors unless the status is that of an answer.
async fn checked(response: reqwest::Response) -> Result<reqwest::Response, NoAnswer> {
    match response.status().as_u16() {
        200 => Ok(response),
        status @ (429 | 503) => Err(NoAnswer::Refused(status)),
        status => {
            let text = response.text().await.unwrap_or_default();
            Err(NoAnswer::Failed(format!("status {status}: {}", text.chars().take(300).collect::<String>())))
        }
    }
}

/// A stream that is being read.
#[derive(Default)]
struct Reading {
    /// The beginning of a line that has not ended.
    pending: Vec<u8>,
    chunks: Vec<f64>,
    text: String,
    usage: Option<Usage>,
    done: bool,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: String,
}

#[derive(Clone, Copy, Deserialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
}

impl Reading {
    fn take_in(&mut self, bytes: &[u8], at: f64) -> Result<(), NoAnswer> {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            if let Some(data) = rest[..end].strip_prefix(b"data: ") {
                self.data(data.trim_ascii_end(), at)?;
            }
            rest = &rest[end + 1..];
        }
        self.pending = rest.to_vec();
        Ok(())
    }

    fn data(&mut self, data: &[u8], at: f64) -> Result<(), NoAnswer> {
        if data == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        let chunk: Chunk =
            serde_json::from_slice(data).map_err(|e| NoAnswer::Failed(format!("a chunk is no JSON: {e}")))?;
        if let Some(error) = chunk.error {
            return Err(NoAnswer::Failed(error.to_string()));
        }
        let text = chunk.choices.iter().map(|choice| choice.text.as_str()).collect::<String>();
        if !text.is_empty() {
            self.chunks.push(at);
            self.text += &text;
        }
        self.usage = chunk.usage.or(self.usage);
        Ok(())
    }

    fn answer(self) -> Result<Answer, NoAnswer> {
        match self.usage {
            Some(usage) if self.done => {
                Answer::new((usage.prompt_tokens, usage.completion_tokens), self.chunks, self.text)
            }
            _ => Err(NoAnswer::Failed("the stream ended without usage or [DONE]".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::super::answer::Prompt;
    use super::*;

    /// Reads a request; `None` at the end of the connection.
    fn request(connection: &mut BufReader<TcpStream>) -> Option<()> {
        let mut body_len = 0;
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).ok().filter(|&len| len > 0)?;
            match line.trim_end().to_ascii_lowercase().split_once(": ") {
                Some(("content-length", len)) => body_len = len.parse().unwrap(),
                None if line == "\r\n" => break,
                _ => {}
            }
        }
        connection.read_exact(&mut vec![0; body_len]).ok()
    }

    /// As llama-server does: says that it keeps the connection, and answers one request on it.
    #[test]
    fn a_server_that_closes_what_it_says_to_keep_answers_every_request() {
        let stream = "data: {\"choices\":[{\"text\":\"a\"}],\"usage\":{\"prompt_tokens\":3,\
                      \"completion_tokens\":1}}\n\ndata: [DONE]\n\n";
        let answer = format!(
            "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: {}\r\n\r\n{stream}",
            stream.len()
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = std::thread::spawn(move || {
            (0..3).all(|_| {
                let mut connection = BufReader::new(listener.accept().unwrap().0);
                request(&mut connection).unwrap();
                connection.get_mut().write_all(answer.as_bytes()).unwrap();
                // The next one on this connection would come while it is being closed.
                request(&mut connection).is_none()
            })
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = Client::new(&url, None).unwrap();
        let job = Job { prompt: Prompt::Text("a".into()), output_len: 1, cancel_after: None };
        for _ in 0..3 {
            let answer = runtime.block_on(client.send(&job)).unwrap();
            assert_eq!((answer.prompt_tokens, answer.output_tokens), (3, 1));
        }
        drop((client, runtime));
        assert!(server.join().unwrap(), "a connection was used twice");
    }

    #[test]
    fn a_stream_is_read_however_it_is_cut() {
        let stream = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n: ping\n\ndata: {\"choices\":[{\"text\":\"\"}]}\n\n\
                      data: {\"choices\":[{\"text\":\"é\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\
                      \"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        for size in 1..stream.len() {
            let mut reading = Reading::default();
            for (at, bytes) in stream.as_bytes().chunks(size).enumerate() {
                reading.take_in(bytes, at as f64).unwrap();
            }
            let answer = reading.answer().unwrap();
            assert_eq!((answer.text.as_str(), answer.chunks.len()), ("aé", 2));
            assert_eq!((answer.prompt_tokens, answer.output_tokens), (3, 2));
        }
    }

    #[test]
    fn a_stream_that_breaks_off_or_errs_is_no_answer() {
        let mut reading = Reading::default();
        reading.take_in(b"data: {\"choices\":[{\"text\":\"a\"}]}\n\n", 0.1).unwrap();
        assert!(matches!(reading.answer(), Err(NoAnswer::Failed(_))));
        let error = b"event: error\ndata: {\"error\":{\"message\":\"boom\"}}\n\n";
        let refused = Reading::default().take_in(error, 0.1).unwrap_err();
        assert!(refused.to_string().contains("boom"), "{refused}");
    }

    #[test]
    fn addresses_are_taken_with_and_without_a_path() {
        for text in ["http://127.0.0.1:8000", "http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"] {
            let client = Client::new(&text.parse().unwrap(), None).unwrap();
            assert_eq!(client.url("/v1/models").as_str(), "http://127.0.0.1:8000/v1/models");
        }
        for text in ["https://x", "127.0.0.1:8000", "ftp://x", ""] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }
}
