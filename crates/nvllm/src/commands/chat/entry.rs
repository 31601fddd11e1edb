//! A line of a conversation: a command or a message.

use anyhow::{Result, bail};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Command(Command),
    Message(String),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Clear,
    /// Empty: no system message.
    System(String),
    /// None: which is it?
    Think(Option<bool>),
    History,
    /// A setting's name and its value; without them: what is set?
    Set(Option<(String, String)>),
    /// Into this file.
    Save(String),
    /// From this file.
    Load(String),
    /// Answer the last message once more.
    Retry,
    Bye,
}

const NAMES: [&str; 14] = [
    "help", "?", "clear", "new", "system", "think", "history", "set", "save", "load", "retry", "bye", "exit",
    "quit",
];

/// Names that are not like any other are not suggested; clap's measure and bound.
const SIMILAR: f64 = 0.7;

impl Entry {
    /// What `text` is. A message may begin with a slash: doubled, in a path, and in Qwen3's
    /// `/think` and `/no_think`.
    ///
    /// Errors if it looks like a command and is none.
    pub(super) fn of(text: &str) -> Result<Self> {
        let text = text.trim();
        let message = || Ok(Self::Message(text.to_owned()));
        let Some(line) = text.strip_prefix('/') else { return message() };
        if line.starts_with('/') {
            return Ok(Self::Message(line.to_owned()));
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let command = match (name, rest) {
            ("help" | "?", _) => Command::Help,
            ("clear" | "new", _) => Command::Clear,
            ("system", text) => Command::System(text.to_owned()),
            ("think", "") => Command::Think(None),
            ("think", "on") => Command::Think(Some(true)),
            ("think", "off") => Command::Think(Some(false)),
            ("think" | "no_think", _) => return message(),
            ("history", _) => Command::History,
            ("set", "") => Command::Set(None),
            ("set", rest) => Command::Set(Some(setting(rest)?)),
            ("save" | "load", "") => bail!("/{name} needs a file, as in /{name} talk.json"),
            ("save", file) => Command::Save(file.to_owned()),
            ("load", file) => Command::Load(file.to_owned()),
            ("retry", _) => Command::Retry,
            ("bye" | "exit" | "quit", _) => Command::Bye,
            _ if !is_like_a_command(name) => return message(),
            _ => bail!(
                "there is no command /{name}{}; /help lists them, //{name} sends it as a message",
                did_you_mean(name)
            ),
        };
        Ok(Self::Command(command))
    }
}

/// The name and the value of `/set NAME VALUE`.
fn setting(text: &str) -> Result<(String, String)> {
    match text.split_once(char::is_whitespace) {
        Some((name, value)) => Ok((name.to_owned(), value.trim().to_owned())),
        None => bail!("/set {text} needs a value, as in /set {text} default; /set lists what there is"),
    }
}

/// A path, a fraction or a comment is a message.
fn is_like_a_command(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '-' | '_'))
}

fn did_you_mean(name: &str) -> String {
    let similarity = |known: &str| strsim::jaro_winkler(name, known);
    let nearest = NAMES.into_iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let nearest = nearest.filter(|known| similarity(known) > SIMILAR);
    nearest.map_or_else(String::new, |known| format!(" (did you mean /{known}?)"))
}

#[cfg(test)]
mod tests {
    use super::{Command, Entry};

    fn message(text: &str) -> Entry {
        Entry::Message(text.into())
    }

    #[test]
    fn commands_and_their_other_names() {
        for (lines, command) in [
            (&["/help", "/?", " /help "][..], Command::Help),
            (&["/clear", "/new"], Command::Clear),
            (&["/bye", "/exit", "/quit"], Command::Bye),
            (&["/history"], Command::History),
            (&["/system"], Command::System(String::new())),
            (&["/think"], Command::Think(None)),
            (&["/think on"], Command::Think(Some(true))),
            (&["/think  off"], Command::Think(Some(false))),
            (&["/set"], Command::Set(None)),
            (&["/set top_p  0.5 "], Command::Set(Some(("top_p".into(), "0.5".into())))),
            (&["/save a b.json"], Command::Save("a b.json".into())),
            (&["/load talk.json"], Command::Load("talk.json".into())),
            (&["/retry"], Command::Retry),
        ] {
            for line in lines {
                let Entry::Command(read) = Entry::of(line).unwrap() else { panic!("{line} is a message") };
                assert_eq!(read, command, "{line}");
            }
        }
        let system = Entry::of("/system Be brief.\nBe kind.").unwrap();
        assert_eq!(system, Entry::Command(Command::System("Be brief.\nBe kind.".into())));
    }

    #[test]
    fn a_message_may_begin_with_a_slash() {
        for text in [
            "hello /help",
            "/etc/passwd is a file",
            "/usr/bin",
            "/no_think",
            "/no_think Hello",
            "/think about it",
            "/",
            "/ 2",
            "/2 is a half",
            "/*comment*/",
            "/.hidden",
        ] {
            assert_eq!(Entry::of(text).unwrap(), message(text), "{text}");
        }
        assert_eq!(Entry::of("//help").unwrap(), message("/help"));
        assert_eq!(Entry::of("  //tmp is full").unwrap(), message("/tmp is full"));
    }

    #[test]
    fn an_unknown_command_is_told_with_the_nearest() {
        for (line, words) in [
            ("/hlep", "no command /hlep (did you mean /help?)"),
            ("/quti", "did you mean /quit?"),
            ("/sytem be brief", "did you mean /system?"),
            ("/save", "/save needs a file"),
            ("/load", "/load needs a file"),
            ("/set seed", "/set seed needs a value"),
            ("/xyzzy", "no command /xyzzy; /help lists them, //xyzzy sends it"),
        ] {
            let error = Entry::of(line).unwrap_err().to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
