//! `nvllm chat` with a message on the command line, and with a conversation from a pipe.

use serde_json::Value;

use super::support::{nvllm_reading, repo, stdout};

/// Greedy as the golden texts are: without the model's own penalty.
const GREEDY: [&str; 4] = ["-t", "0", "--repetition-penalty", "1"];

struct Piped {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Piped {
    /// Expects `parts` on standard error, one after the other.
    fn says(&self, parts: &[&str]) {
        let mut rest = self.stderr.as_str();
        for part in parts {
            let at = rest.find(part).unwrap_or_else(|| panic!("no `{part}` here in: {}", self.stderr));
            rest = &rest[at + part.len()..];
        }
    }

    fn num_answers(&self) -> usize {
        self.stderr.matches(" tokens in, ").count()
    }
}

fn piped(args: &[&str], input: &[u8]) -> Piped {
    let args = [&["chat"][..], &GREEDY, args].concat();
    let output = nvllm_reading(&args, input);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Piped { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn golden_chat() -> (String, String) {
    let golden = std::fs::read(repo("tests/golden/nvllm-tiny.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let case =
        golden["cases"].as_array().unwrap().iter().find(|case| case["kind"] == "chat").unwrap().clone();
    let answer = case["output_text"].as_str().unwrap().replace("<|im_end|>", "");
    (case["input"][0]["content"].as_str().unwrap().to_owned(), answer.trim_end().to_owned())
}

#[test]
fn one_message_is_answered() {
    let (message, answer) = golden_chat();
    let args = [&["chat", message.as_str(), "--activations", "f32", "--threads", "1"][..], &GREEDY].concat();
    assert_eq!(stdout(&args).trim_end(), answer);
    let run = piped(&["-", "--activations", "f32", "--threads", "1"], message.as_bytes());
    assert_eq!((run.code, run.stdout.trim_end()), (Some(0), answer.as_str()));
    let empty = piped(&["-"], b" \n");
    assert_eq!(empty.code, Some(1));
    empty.says(&["error: the message is empty"]);
}

#[test]
fn a_conversation_has_commands() {
    let lines =
        "/help\nHello\n/think off\n/think\n/history\n/new\n/system Be kind.\n/history\n/exit\nnever read\n";
    let run = piped(&["-n", "8"], lines.as_bytes());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.says(&[
        "/system TEXT",
        " tokens in, ",
        "thinking is off",
        "user: Hello",
        "assistant: ",
        "forgotten",
        "system: Be kind.",
    ]);
    assert_eq!(run.num_answers(), 1);

    // What was asked for and what failed is said with --quiet too.
    let run = piped(&["-n", "8", "--quiet"], b"/help\nHello\n/hlep\n/history\n");
    assert_eq!(run.code, Some(1));
    run.says(&[
        "/system TEXT",
        "error: there is no command /hlep (did you mean /help?)",
        "user: Hello",
        "error: 1 of 2",
    ]);
    assert_eq!(run.num_answers(), 0);
}

#[test]
fn a_message_may_begin_with_a_slash() {
    let run = piped(&["-n", "4"], b"/etc/passwd is a file\n/no_think\n//help\n/history\n");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.says(&["user: /etc/passwd is a file\n", "user: /no_think\n", "user: /help\n"]);
}

#[test]
fn bytes_that_are_not_utf8_become_replacement_characters() {
    let run = piped(&["-n", "4"], b"abc\xff\r\ncaf\xe9 au lait\n/history");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.says(&["user: abc\u{fffd}\n", "user: caf\u{fffd} au lait\n"]);
    let run = piped(&["-", "-n", "4"], b"abc\xff");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

#[test]
fn quotes_hold_a_message_of_several_lines() {
    let run = piped(&["-n", "4"], b"\"\"\"\n/help\n  two\n\"\"\"\n\"\"\"one line\"\"\"\n/history\n");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.says(&["user: /help\n  two\n", "user: one line\n"]);
    let run = piped(&["-n", "4"], b"Hello\n\"\"\"\nno end\n");
    assert_eq!((run.code, run.num_answers()), (Some(1), 1));
    run.says(&["has no end", "error: 1 of 2 messages"]);
}

#[test]
fn a_full_context_drops_the_oldest_turns() {
    let lines = "/system Be kind.\nHello one\nHello two\nHello three\nHello four\n/history\n";
    let run = piped(
        &["-n", "16", "--ignore-eos", "--max-model-len", "96", "--thinking", "false"],
        lines.as_bytes(),
    );
    assert_eq!((run.code, run.num_answers()), (Some(0), 4), "{}", run.stderr);
    run.says(&["the context is full: the oldest", "left out", "system: Be kind.", "user: Hello four"]);
    assert!(!run.stderr.contains("user: Hello one"), "{}", run.stderr);

    // A message that is too long even alone is refused, and the conversation stays as it is.
    let long = "the ".repeat(200);
    let lines = format!("Hello one\n{long}\nHello two\n/history\n");
    let run = piped(&["-n", "8", "--max-model-len", "96"], lines.as_bytes());
    assert_eq!((run.code, run.num_answers()), (Some(1), 2), "{}", run.stderr);
    run.says(&[
        "the message is too long",
        "the context holds 96",
        "shorten it",
        "/clear",
        "user: Hello one",
        "user: Hello two",
    ]);
    assert!(!run.stderr.contains("the the"), "{}", run.stderr);
    // One that leaves less room than an answer is usually given is answered as far as there is
    // room.
    let run = piped(&["--ignore-eos", "--max-model-len", "96"], "the ".repeat(60).as_bytes());
    assert_eq!((run.code, run.num_answers()), (Some(0), 1), "{}", run.stderr);
    run.says(&["context full"]);
}

#[test]
fn an_answer_has_an_end() {
    let run = piped(&["--ignore-eos"], b"Hello\n");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.says(&[" tokens in, 1024 out", "stopped at --max-tokens"]);
}

#[test]
fn thoughts_are_plain_in_a_pipe() {
    let run = piped(&[], b"What is the opposite of hot?\n");
    assert!(run.stdout.starts_with("<think>\n") && !run.stdout.contains('\x1b'), "{}", run.stdout);
}

#[cfg(unix)]
mod interrupted {
    use std::io::{Read as _, Write as _};
    use std::process::{Child, Stdio};
    use std::time::Duration;

    use super::super::support::{command, ends, interrupt};

    fn start(args: &[&str]) -> Child {
        let mut command = command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn ctrl_c_ends_a_conversation_from_a_pipe() {
        // While it waits for a message that does not come: the input stays open.
        let mut child = start(&["chat", "-t", "0", "-n", "4"]);
        let input = child.stdin.take();
        input.as_ref().unwrap().write_all(b"Hello\n").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        std::thread::sleep(Duration::from_secs(2));
        interrupt(&child);
        assert_eq!(ends(child).status.code(), Some(130));
        drop(input);

        // While it answers, with another message waiting.
        let mut child = start(&["chat", "--ignore-eos", "-n", "-1", "--seed", "7", "--backend", "reference"]);
        let input = child.stdin.take();
        input.as_ref().unwrap().write_all(b"Hello\nHello again\n").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        interrupt(&child);
        let output = ends(child);
        assert_eq!(output.status.code(), Some(130));
        let stderr = String::from_utf8(output.stderr).unwrap();
        let line = stderr.lines().last().unwrap();
        assert!(line.contains("(interrupted)") && line.contains("seed 7"), "{stderr}");
        assert_eq!(stderr.matches(" tokens in, ").count(), 1, "{stderr}");
        drop(input);
    }
}

mod settings_and_files {
    use super::*;

    #[test]
    fn settings_hold_for_the_answers_after_them() {
        let lines = "/set max_tokens 3\nHello\n/set max_tokens 5\n/set seed 4\nHello\n/set\n/set top_p 2\n/set colour red\n\
                     /set system Be kind.\n/set think off\n/think\n/history\n";
        let run = piped(&["--ignore-eos"], lines.as_bytes());
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        run.says(&[
            " tokens in, 3 out",
            " tokens in, 5 out",
            "seed 4",
            "temperature 0\n",
            "seed 4\n",
            "max_tokens 5\n",
            "json off\n",
            "error: /set top_p is 2",
            "error: there is no setting \"colour\"",
            "thinking is off",
            "system: Be kind.",
        ]);
    }

    #[test]
    fn a_conversation_is_saved_loaded_and_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("talk.json");
        let again = dir.path().join("again.json");
        let lines = format!(
            "/system Be kind.\nHello\n/save {0}\nAnd now?\n/load {0}\n/history\n/retry\n/history\n/save {1}\n",
            file.display(),
            again.display()
        );
        let run = piped(&["-n", "6"], lines.as_bytes());
        assert_eq!((run.code, run.num_answers()), (Some(0), 3), "{}", run.stderr);
        run.says(&["(3 messages are in ", "(3 messages; ", "user: Hello", "user: Hello", "assistant: "]);
        let history = &run.stderr[run.stderr.find("(3 messages; ").unwrap()..];
        assert!(!history.contains("And now?"), "{history}");
        let saved: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let roles: Vec<_> =
            saved.as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant"]);
        // Greedy, so the same answer.
        assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&again).unwrap());

        let run = piped(
            &["-n", "4"],
            format!("/retry\n/save {}\n/load {0}/none.json\nHello\n", dir.path().display()).as_bytes(),
        );
        assert_eq!((run.code, run.num_answers()), (Some(1), 1), "{}", run.stderr);
        run.says(&["error: there is no message", "error: cannot write", "error: cannot read"]);
    }

    #[test]
    fn json_mode_answers_with_an_object() {
        let run = piped(&["-n", "40", "--thinking", "false"], b"/set json on\nHello\n/set json off\nHello\n");
        assert_eq!((run.code, run.num_answers()), (Some(0), 2), "{}", run.stderr);
        assert!(run.stdout.starts_with('{'), "{}", run.stdout);
        assert!(!run.stdout.lines().last().unwrap().starts_with('{'), "{}", run.stdout);
    }

    #[test]
    fn a_call_is_shown_and_its_result_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tools.json");
        let golden = std::fs::read(repo("tests/golden/nvllm-tiny.json")).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        let case = golden["cases"].as_array().unwrap().iter().find(|case| case["kind"] == "tool").unwrap();
        std::fs::write(&file, case["tools"].to_string()).unwrap();
        let talk = dir.path().join("talk.json");
        let args =
            ["--tools", file.to_str().unwrap(), "--thinking", "false", "-n", "60", "--activations", "f32"];
        let question = case["input"][0]["content"].as_str().unwrap();
        let lines = format!("{question}\n12 degrees\n/save {}\n/history\n", talk.display());
        let run = piped(&args, lines.as_bytes());
        assert_eq!((run.code, run.num_answers()), (Some(0), 2), "{}", run.stderr);
        assert!(run.stdout.starts_with("[call] get_weather {\"city\": \"Paris\"}\n"), "{}", run.stdout);
        run.says(&["user: ", "[call] get_weather {\"city\": \"Paris\"}", "tool: 12 degrees", "assistant: "]);
        let saved: Value = serde_json::from_slice(&std::fs::read(&talk).unwrap()).unwrap();
        let call = &saved[1]["tool_calls"][0];
        assert_eq!(
            (&call["function"]["name"], &saved[2]["tool_call_id"]),
            (&"get_weather".into(), &call["id"])
        );
        assert_eq!(call["function"]["arguments"], "{\"city\": \"Paris\"}");

        // Made to call, and no more than that.
        let run = piped(&args, b"/set tool_choice required\nHello\n12\n/set json on\n");
        assert!(run.stdout.starts_with("[call] "), "{}", run.stdout);
        run.says(&["error: /set json is for conversations without --tools"]);
        std::fs::write(&file, "[{\"type\": \"function\"}]").unwrap();
        let run = piped(&args, b"Hello\n");
        assert_eq!(run.code, Some(1));
        run.says(&["tools.json: entry 0 has no name"]);
    }
}
