//! `nvllm chat` at a terminal.
#![cfg(unix)]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use pty_process::blocking::{Command, Pty};
use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};

/// An answer's last line has this.
const CLOSING: &str = " tokens in, ";

/// A terminal with a chat in it.
struct Terminal {
    pty: Arc<Pty>,
    child: Child,
    output: Receiver<Vec<u8>>,
    /// What has come and was not waited for yet.
    screen: Vec<u8>,
    state: tempfile::TempDir,
}

impl Terminal {
    fn start(args: &[&str]) -> Self {
        Self::start_with(args, tempfile::tempdir().unwrap(), &[])
    }

    fn start_with(args: &[&str], state: tempfile::TempDir, env: &[(&str, &str)]) -> Self {
        let (pty, pts) = pty_process::blocking::open().expect("a pseudo-terminal");
        pty.resize(pty_process::Size::new(40, 200)).unwrap();
        let command = Command::new(env!("CARGO_BIN_EXE_nvllm"))
            .args(["chat", "--threads", "1"])
            .args(args)
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .env("XDG_STATE_HOME", state.path())
            .envs(env.iter().copied());
        let child = command.spawn(pts).expect("the binary starts");
        let pty = Arc::new(pty);
        let (send, output) = channel();
        let from = Arc::clone(&pty);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end is an error where the last writer has closed.
            while let Ok(length @ 1..) = (&*from).read(&mut buffer) {
                if send.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { pty, child, output, screen: Vec::new(), state }
    }

    /// Waits for the first prompt.
    fn ready(mut self) -> Self {
        self.wait_for("> ");
        self
    }

    fn keys(&mut self, keys: &[u8]) {
        (&*self.pty).write_all(keys).unwrap();
    }

    /// Waits for `words`; what has come up to them.
    fn wait_for(&mut self, words: &str) -> String {
        let deadline = Instant::now() + Duration::from_mins(2);
        loop {
            let at = self.screen.windows(words.len()).position(|window| window == words.as_bytes());
            if let Some(at) = at {
                let seen: Vec<u8> = self.screen.drain(..at + words.len()).collect();
                return String::from_utf8_lossy(&seen).into_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.screen.extend(bytes),
                Err(e) => panic!("no `{words}` ({e}): {}", String::from_utf8_lossy(&self.screen)),
            }
        }
    }

    /// Waits for each of `parts` in turn.
    fn wait_for_all(&mut self, parts: &[&str]) {
        parts.iter().for_each(|part| drop(self.wait_for(part)));
    }

    /// Waits for the end, which is to be a success and to leave the terminal as it was; what has
    /// come, and the state.
    fn ends(self) -> (String, tempfile::TempDir) {
        self.ends_with(0)
    }

    fn ends_with(mut self, code: i32) -> (String, tempfile::TempDir) {
        let deadline = Instant::now() + Duration::from_mins(1);
        let status = loop {
            // It cannot end while what it writes is not read.
            while let Ok(bytes) = self.output.try_recv() {
                self.screen.extend(bytes);
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!("the chat did not end: {}", String::from_utf8_lossy(&self.screen));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(code), "{}", String::from_utf8_lossy(&self.screen));
        self.is_as_it_was();
        (String::from_utf8_lossy(&self.screen).into_owned(), self.state)
    }

    fn is_as_it_was(&self) {
        let modes = tcgetattr(&*self.pty).unwrap();
        let local = modes.local_modes;
        assert!(local.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG), "{local:?}");
        assert_eq!(modes.special_codes[SpecialCodeIndex::VEOF], 4);
    }
}

#[test]
fn lines_typed_ahead_are_answered() {
    // Slow enough that two lines are typed while the first is answered, and before that while the
    // model is loaded.
    let mut terminal = Terminal::start(&["-t", "0", "-n", "12", "--ignore-eos", "--backend", "reference"]);
    terminal.keys(b"zero\n");
    terminal.wait_for("> ");
    terminal.wait_for(CLOSING);
    terminal.wait_for("> ");
    // Together, as a paste comes from a terminal that does not bracket it.
    terminal.keys(b"one\rtwo\rthree\r");
    terminal.wait_for(CLOSING);
    terminal.keys(b"four\rfi");
    terminal.keys(b"ve\r");
    (0..4).for_each(|_| drop(terminal.wait_for(CLOSING)));
    terminal.keys(b"/history\r");
    terminal.wait_for_all(&[
        "user: zero\r\n",
        "user: one\r\n",
        "user: two\r\n",
        "user: three\r\n",
        "user: four\r\n",
        "user: five\r\n",
    ]);
    terminal.keys(b"/bye\r");
    terminal.ends();
}

#[test]
fn bytes_that_are_not_utf8_become_replacement_characters() {
    let mut terminal = Terminal::start(&["-t", "0", "-n", "4"]).ready();
    for line in
        [&b"abc\xff\r"[..], b"caf\xe9\r", b"\x1b[200~x\xffy\rz\x1b[201~\r", b"\"\"\"\r\xc3\x28\r\"\"\"\r"]
    {
        terminal.keys(line);
        terminal.wait_for(CLOSING);
        terminal.wait_for("> ");
    }
    terminal.keys(b"/history\r");
    terminal.wait_for_all(&[
        "user: abc\u{fffd}\r\n",
        "user: caf\u{fffd}\r\n",
        "user: x\u{fffd}y\r\nz\r\n",
        "user: \u{fffd}(\r\n",
    ]);
    terminal.keys(b"/bye\r");
    terminal.ends();
}

#[test]
fn ctrl_d_leaves_whenever_it_is_pressed() {
    // Before the chat has the terminal it is still the end of input: pressed while a line is
    // edited, or ahead of that.
    let start = || Terminal::start(&["-t", "0", "-n", "4"]).ready();
    let mut terminal = start();
    terminal.keys(b"\x04");
    terminal.ends();
    for pause_us in (0..20_000).step_by(1_000) {
        let mut terminal = start();
        terminal.keys(b"/help\r");
        std::thread::sleep(Duration::from_micros(pause_us));
        terminal.keys(b"\x04");
        terminal.ends();
    }
    let mut terminal = start();
    terminal.keys(b"Hello\r");
    terminal.wait_for("<think>");
    terminal.keys(b"\x04");
    let (screen, _) = terminal.ends();
    assert!(screen.contains(CLOSING), "{screen}");
}

#[test]
fn a_second_ctrl_c_leaves_the_terminal_as_it_was() {
    let args = ["-t", "0", "--ignore-eos", "-n", "1000", "--backend", "reference"];
    let mut terminal = Terminal::start(&args).ready();
    terminal.keys(b"Hello\r");
    terminal.wait_for("<think>");
    // Ctrl-S: the output stops, so the first press cannot end the answer.
    terminal.keys(b"\x13");
    std::thread::sleep(Duration::from_millis(200));
    let pid = rustix::process::Pid::from_child(&terminal.child);
    for _ in 0..2 {
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    // Ctrl-Q: what waits can be read.
    terminal.keys(b"\x11");
    terminal.ends_with(130);
}

#[test]
fn a_signal_that_ends_the_chat_leaves_the_terminal_as_it_was() {
    use rustix::process::{Pid, Signal, kill_process};
    for signal in [Signal::TERM, Signal::HUP] {
        let mut terminal = Terminal::start(&["-t", "0", "-n", "4"]).ready();
        // The prompt stands before the terminal is raw for sure: a key that is shown is not.
        terminal.keys(b"typed");
        terminal.wait_for("typed");
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        let status = terminal.child.wait().unwrap();
        assert_eq!(status.signal(), Some(signal.as_raw()));
        terminal.is_as_it_was();
    }
    // While an answer is written, too.
    let args = ["-t", "0", "--ignore-eos", "-n", "1000", "--backend", "reference"];
    let mut terminal = Terminal::start(&args).ready();
    terminal.keys(b"Hello\r");
    terminal.wait_for("<think>");
    kill_process(Pid::from_child(&terminal.child), Signal::TERM).unwrap();
    assert_eq!(terminal.child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
    terminal.is_as_it_was();
}

#[test]
fn ctrl_c_ends_one_answer_and_no_other() {
    let args = ["-t", "0", "--ignore-eos", "-n", "100", "--backend", "reference"];
    let mut terminal = Terminal::start(&args).ready();
    // At the prompt it clears the line; how to leave is said once.
    terminal.keys(b"not sent\x03");
    terminal.wait_for_all(&["/bye leaves", "> "]);
    terminal.keys(b"nor this\x03");
    terminal.wait_for_all(&["nor this", "> "]);
    terminal.keys(b"Hello\r");
    terminal.wait_for("<think>");
    terminal.keys(b"\x03");
    terminal.wait_for("(interrupted)");
    terminal.wait_for("> ");
    // Another press after the end is not for the next answer.
    terminal.keys(b"\x03");
    terminal.wait_for("> ");
    terminal.keys(b"Again\r");
    terminal.wait_for(CLOSING);
    let line = terminal.wait_for("seed");
    assert!(line.contains("100 out") && !line.contains("(interrupted)"), "{line}");
    terminal.keys(b"/history\r");
    terminal.wait_for_all(&["user: Hello\r\n", "assistant: <think>", "user: Again\r\n"]);
    terminal.keys(b"/exit\r");
    let (screen, _) = terminal.ends();
    assert!(!screen.contains("leaves"), "{screen}");
}

#[test]
fn ctrl_c_ends_the_reading_of_a_long_prompt_and_the_chat_goes_on() {
    // Seconds of reading, in steps that are short: the next answer waits for one of them.
    let device = ["--backend", "reference", "--max-num-batched-tokens", "16"];
    let mut terminal =
        Terminal::start(&[&["-t", "0", "-n", "8", "--ignore-eos"][..], &device].concat()).ready();
    // A key that is shown says that the terminal is raw: no line is too long for it then.
    terminal.keys(b"long");
    terminal.wait_for("long");
    terminal.keys(format!("\x1b[200~{}\x1b[201~\r", " the".repeat(1500)).as_bytes());
    std::thread::sleep(Duration::from_millis(500));
    terminal.keys(b"\x03");
    terminal.wait_for(CLOSING);
    let line = terminal.wait_for("seed");
    assert!(line.starts_with("0 out, (interrupted)"), "{line}");
    terminal.wait_for("> ");
    terminal.keys(b"Again\r");
    terminal.wait_for(CLOSING);
    let line = terminal.wait_for("seed");
    assert!(line.starts_with("8 out, ") && !line.contains("(interrupted)"), "{line}");
    terminal.keys(b"/history\r");
    terminal.wait_for("user: Again\r\n");
    terminal.keys(b"/bye\r");
    terminal.ends();
}

#[test]
fn thoughts_are_dim_where_colours_are_allowed() {
    let message = b"What is the opposite of hot?\r";
    let args = ["-t", "0", "--repetition-penalty", "1"];
    let mut terminal = Terminal::start(&args).ready();
    terminal.keys(message);
    let answer = terminal.wait_for(CLOSING);
    let answer = &answer[answer.find("\x1b[2m").expect("a dim thought")..];
    assert!(answer.starts_with("\x1b[2m<think>") && answer.contains("</think>\x1b[0m"), "{answer:?}");
    terminal.keys(b"/bye\r");
    let (_, state) = terminal.ends();

    let mut terminal = Terminal::start_with(&args, state, &[("NO_COLOR", "1")]).ready();
    terminal.keys(message);
    let answer = terminal.wait_for(CLOSING);
    assert!(answer.contains("<think>") && !answer.contains("\x1b[2m"), "{answer:?}");
    terminal.keys(b"/bye\r");
    terminal.ends();
}

#[test]
fn the_history_is_kept_between_conversations() {
    let mut terminal = Terminal::start(&["-t", "0", "-n", "4"]).ready();
    terminal.keys(b"A first message\r");
    terminal.wait_for(CLOSING);
    terminal.keys(b" /history\r");
    terminal.keys(b"/bye\r");
    let (_, state) = terminal.ends();
    let file = state.path().join("nvllm/chat_history");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let mut terminal = Terminal::start_with(&["-t", "0", "-n", "4"], state, &[]).ready();
    // Up twice: the message before /bye.
    terminal.keys(b"\x1b[A\x1b[A\r");
    terminal.wait_for("A first message");
    terminal.wait_for(CLOSING);
    terminal.keys(b"/bye\r");
    let (_, state) = terminal.ends();

    // A place that cannot be written is not in the way.
    let unusable = tempfile::tempdir().unwrap();
    std::fs::write(unusable.path().join("nvllm"), "").unwrap();
    let mut terminal = Terminal::start_with(&["-t", "0", "-n", "4"], unusable, &[]).ready();
    terminal.keys(b"Hello\r");
    let screen = terminal.wait_for(CLOSING);
    assert!(!screen.contains("history"), "{screen}");
    terminal.keys(b"/bye\r");
    terminal.ends();
    drop(state);
}

#[test]
fn a_plain_terminal_is_read_line_by_line() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start_with(&["-t", "0", "-n", "4"], state, &[("TERM", "dumb")]).ready();
    terminal.keys(b"abc\xff\n");
    terminal.wait_for(CLOSING);
    terminal.keys(b"/history\n");
    terminal.wait_for("user: abc\u{fffd}\r\n");
    terminal.keys(b"/bye\n");
    let (screen, _) = terminal.ends();
    assert!(!screen.contains('\x1b'), "{screen:?}");
}

#[test]
fn a_conversation_is_set_saved_retried_and_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("talk.json");
    let mut terminal = Terminal::start(&["-t", "0", "-n", "4", "--ignore-eos"]).ready();
    terminal.keys(b"/help\r");
    terminal.wait_for_all(&["/set NAME VALUE", "/retry", "/save FILE", "/load FILE", "> "]);
    terminal.keys(b"/set max_tokens 6\r");
    terminal.wait_for("> ");
    terminal.keys(b"Hello\r");
    terminal.wait_for_all(&[" tokens in, 6 out", "> "]);
    terminal.keys(b"/retry\r");
    terminal.wait_for_all(&[" tokens in, 6 out", "> "]);
    terminal.keys(format!("/save {}\r", file.display()).as_bytes());
    terminal.wait_for_all(&["(2 messages are in ", "> "]);
    terminal.keys(b"/clear\r");
    terminal.wait_for_all(&["forgotten", "> "]);
    terminal.keys(format!("/load {}\r", file.display()).as_bytes());
    terminal.wait_for_all(&["(2 messages; ", "> "]);
    terminal.keys(b"/history\r");
    terminal.wait_for_all(&["user: Hello\r\n", "assistant: ", "> "]);
    terminal.keys(b"/load none.json\r");
    terminal.wait_for_all(&["error: cannot read none.json", "> "]);
    terminal.keys(b"/bye\r");
    terminal.ends();
}

#[test]
fn the_result_of_a_call_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tools.json");
    let schema = serde_json::json!({"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"], "additionalProperties": false});
    let tool =
        serde_json::json!([{"type": "function", "function": {"name": "get_weather", "parameters": schema}}]);
    std::fs::write(&file, tool.to_string()).unwrap();
    let args = ["-t", "0", "--thinking", "false", "-n", "60", "--tools", file.to_str().unwrap()];
    let mut terminal = Terminal::start(&args).ready();
    terminal.keys(b"/set tool_choice required\r");
    terminal.wait_for("> ");
    terminal.keys(b"What is the weather in Paris?\r");
    terminal.wait_for_all(&["[call] get_weather {", "}", CLOSING, "get_weather returns> "]);
    terminal.keys(b"12 degrees\r");
    terminal.wait_for_all(&[CLOSING, "> "]);
    // Ctrl-C in place of a result.
    terminal.keys(b"And in Rome?\r");
    terminal.wait_for_all(&["[call] get_weather", "get_weather returns> "]);
    terminal.keys(b"\x03");
    terminal.wait_for_all(&["the call has no result", "> "]);
    terminal.keys(b"/history\r");
    terminal.wait_for_all(&[
        "[call] get_weather",
        "tool: 12 degrees",
        "user: And in Rome?",
        "[call] get_weather",
        "> ",
    ]);
    terminal.keys(b"/bye\r");
    terminal.ends();
}
