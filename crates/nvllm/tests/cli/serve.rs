//! `nvllm serve`: what it says to its flags, and its life as a process.
#![cfg(unix)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::support::{command, ends, fixture, interrupt, is_usage_error, refuses, stdout};

/// A server as a service manager starts it.
struct Service {
    child: Child,
    /// What it tells the manager.
    told: UnixDatagram,
    address: String,
    _dir: tempfile::TempDir,
}

impl Service {
    /// Waits until it takes requests.
    fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    /// The same with environment variables.
    fn start_with(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("notify");
        let told = UnixDatagram::bind(&socket).unwrap();
        told.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let mut command = command(&[&["serve", "--port", "0", "--backend", "cpu"], args].concat());
        command.envs(variables.iter().copied());
        command.env("NOTIFY_SOCKET", &socket).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut service = Self { child: command.spawn().unwrap(), told, address: String::new(), _dir: dir };
        let ready = service.until("READY=1");
        let (_, address) = ready.split_once("://").unwrap_or_else(|| panic!("no address: {ready}"));
        address.trim().clone_into(&mut service.address);
        service
    }

    /// Waits until the manager is told this.
    fn until(&self, text: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            let len = self.told.recv(&mut bytes).unwrap();
            let said = String::from_utf8_lossy(&bytes[..len]).into_owned();
            if said.contains(text) {
                return said;
            }
        }
    }

    fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: here\r\nX-Request-Id: of-test\r\n");
        // As OpenAI's clients count.
        let head = head + "X-Stainless-Retry-Count: 2\r\n";
        let rest = format!("Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all((head + &rest).as_bytes()).unwrap();
        stream
    }

    fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    fn ends(self) -> Output {
        ends(self.child)
    }
}

fn all(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_server_answers_logs_no_prompt_and_drains_at_sigterm() {
    let service = Service::start(&["--log-format", "json", "--served-model-name", "mine"]);
    let chat = r#"{"messages": [{"role": "user", "content": "SECRET"}], "max_tokens": 5, "ignore_eos": true,
                   "my_field": 1}"#;
    for _ in 0..2 {
        let answer = all(service.send("POST", "/v1/chat/completions", chat));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"model\":\"mine\""), "{answer}");
    }
    // A stream that runs when the server is told to end, and goes on.
    let stream = r#"{"prompt": "Once", "max_tokens": 300, "ignore_eos": true, "stream": true}"#;
    let mut running = service.send("POST", "/v1/completions", stream);
    running.read_exact(&mut [0; 200]).unwrap();
    service.terminate();
    service.until("STOPPING=1");
    let rest = all(running);
    assert!(rest.contains("\"finish_reason\":\"length\"") && rest.contains("data: [DONE]"), "{rest}");
    let output = service.ends();
    assert_eq!(output.status.code(), Some(0));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!log.contains("SECRET"), "{log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let line = lines.iter().find(|line| line["path"] == "/v1/chat/completions").unwrap();
    assert_eq!((&line["status"], &line["output_tokens"]), (&200.into(), &5.into()), "{line}");
    assert_eq!((&line["method"], &line["request_id"]), (&"POST".into(), &"of-test".into()), "{line}");
    assert_eq!(line["retry"], 2, "{line}");
    let warnings = lines.iter().filter(|line| line["message"].as_str().unwrap().contains("my_field"));
    assert_eq!(warnings.count(), 1, "a field that is not known is named once: {log}");
}

#[test]
fn ctrl_c_drains_for_so_long_and_a_second_ends_at_once() {
    let endless = r#"{"prompt": "Once", "max_tokens": 1900, "ignore_eos": true, "stream": true}"#;
    let backend = ["--backend", "reference"];
    let service = Service::start(&[&backend[..], &["--shutdown-timeout", "0.2"]].concat());
    let mut running = service.send("POST", "/v1/completions", endless);
    running.read_exact(&mut [0; 200]).unwrap();
    interrupt(&service.child);
    let rest = all(running);
    assert!(rest.contains("event: error\n"), "{rest}");
    let output = service.ends();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--shutdown-timeout"));

    let service = Service::start(&backend);
    let mut running = service.send("POST", "/v1/completions", endless);
    running.read_exact(&mut [0; 200]).unwrap();
    interrupt(&service.child);
    service.until("STOPPING=1");
    interrupt(&service.child);
    assert_eq!(service.ends().status.code(), Some(130));
}

#[test]
fn a_port_in_use_is_one_error_before_anything_is_loaded() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refuses(&["serve", "-m", "/no/such/model", "--port", &port], &["cannot listen on", &port, "--port"]);
    // Without a command it is the same: whoever has that port now, it is taken.
    let _taken = TcpListener::bind("127.0.0.1:8000");
    refuses(&[], &["cannot listen on 127.0.0.1:8000"]);
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_server() {
    let args = ["serve", "--port", "0", "--backend", "cpu", "--max-model-len", "999999"];
    refuses(&args, &["max-model-len", "2048"]);
    refuses(&["serve", "--port", "0", "-m", "/no/such/model"], &["/no/such/model"]);
    refuses(&["serve", "--port", "0", "--api-key-file", "/no/such/file"], &["--api-key-file /no/such/file"]);
    refuses(&["serve", "--port", "0", "--chat-template", "/no/such/file"], &["--chat-template"]);
}

#[test]
fn flags_of_vllm_that_are_not_there_are_refused_by_name() {
    for (args, words) in [
        (&["--tensor-parallel-size", "2"][..], &["--tensor-parallel-size 2", "router"][..]),
        (&["-tp=2"], &[]),
        (&["--enable-lora"], &["--enable-lora", "merge"]),
        (&["--quantization", "awq"], &["--quantization"]),
        (&["--tool-call-parser", "pythonic"], &["--tool-call-parser", "hermes, qwen3_coder"]),
        (&["--reasoning-parser", "mistral"], &["--reasoning-parser", "qwen3"]),
        (&["--dtype", "float16"], &["--dtype float16", "bfloat16"]),
        (&["--gpu-memory-utilization", "1.5"], &["--gpu-memory-utilization", "up to 1"]),
        (&["--tenant", "a=0"], &["NAME=WEIGHT"]),
        (&["--ssl-keyfile", "x"], &["--ssl-certfile"]),
        (&["--default-chat-template-kwargs", "[]"], &["JSON object"]),
    ] {
        is_usage_error(&[&["serve"], args].concat(), words);
    }
    // What changes nothing is taken: the next thing that is wrong is said.
    let harmless = [
        "--tensor-parallel-size",
        "1",
        "--trust-remote-code",
        "--seed",
        "0",
        "--dtype",
        "auto",
        "--enforce-eager",
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "hermes",
        "--reasoning-parser",
        "qwen3",
    ];
    refuses(&[&["serve", "/no/such/model", "--port", "0"], &harmless[..]].concat(), &["/no/such/model"]);
}

#[test]
fn a_file_of_flags_is_checked_like_the_command_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let with = |text: &str| std::fs::write(&file, text).unwrap();
    for (text, words) in [
        ("max_num_seq = 5", &["--max-num-seq"][..]),
        ("max-num-seqs = 0", &["--max-num-seqs", "at least 1"]),
        ("port = \"x\"", &["--port"]),
        ("enable_lora = true", &["--enable-lora"]),
        ("port = ", &[]),
        ("config = \"other.toml\"", &["config"]),
    ] {
        with(text);
        is_usage_error(&["serve", "--config", path], &[words, &[path]].concat());
    }
    with("port = 0\nmodel = \"/no/such/model\"\nserved-model-name = [\"a\", \"b\"]");
    refuses(&["serve", "--config", path], &["/no/such/model"]);
    is_usage_error(&["serve", "--config", "/no/such/file"], &["/no/such/file"]);
}

#[test]
fn the_help_has_every_flag_under_a_heading() {
    let help = stdout(&["serve", "--help"]);
    for heading in ["Connections:", "Access:", "Answers:", "Capacity:", "Loading:", "Messages:", "Examples:"]
    {
        assert!(help.contains(&format!("\n{heading}\n")), "no {heading} in {help}");
    }
    assert!(!help.contains("\nOptions:\n") && !help.contains("tensor-parallel"), "{help}");
}

#[test]
fn a_model_of_a_hub_is_served_under_the_name_that_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let cached = dir.path().join("models--org--tiny");
    let snapshot = cached.join("snapshots").join(commit);
    std::fs::create_dir_all(cached.join("refs")).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(cached.join("refs/main"), commit).unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(fixture("a_qwen3_tied_gqa").join(file), snapshot.join(file)).unwrap();
    }
    let cache = dir.path().display().to_string();
    let service = Service::start_with(&["-m", "org/tiny"], &[("HF_HUB_CACHE", &cache)]);
    let answer = all(service.send("GET", "/v1/models", ""));
    assert!(answer.contains(r#""id":"org/tiny""#), "{answer}");
    service.terminate();
    service.ends();
}
