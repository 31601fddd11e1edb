//! The command line as it is meant: `serve` if no command is given, and the flags of a file where
//! none were typed.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory as _, Parser as _};
use toml::Value;

use crate::commands::Cli;

const COMMAND: &str = "serve";

/// The arguments to parse, given those of the process.
///
/// Errors if the file of `--config` cannot be read, or has what `clap` would refuse.
pub(crate) fn with_config(mut args: Vec<OsString>) -> Result<Vec<OsString>, clap::Error> {
    let is_flag = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-");
    let Some(command) = args.iter().skip(1).position(|arg| !is_flag(arg)) else {
        let asks = |arg: &OsString| ["-h", "--help", "-V", "--version"].iter().any(|flag| arg == flag);
        if !args.iter().any(asks) {
            args.insert(1.min(args.len()), COMMAND.into());
        }
        return Ok(args);
    };
    let command = command + 1;
    let Some(file) = (args[command] == COMMAND).then(|| config_file(&args[command + 1..])).flatten() else {
        return Ok(args);
    };
    let flags = Flags::new();
    let entries = entries(Path::new(&file), &flags)?;
    // Alone first, so that what is wrong with the file is not looked for on the command line.
    let alone = ["nvllm", COMMAND].map(OsString::from).into_iter();
    let alone = alone.chain(entries.iter().flat_map(|entry| entry.arguments.clone()));
    if let Err(error) = Cli::try_parse_from(alone) {
        let problem = error.render().to_string();
        let problem = problem.strip_prefix("error: ").unwrap_or(&problem);
        return Err(refused(Path::new(&file), problem));
    }
    // Not in the hope that what is typed overrides it: values of a list would add up.
    let typed = typed(&args);
    let from_file = entries.into_iter().filter(|entry| !flags.is_typed(&entry.name, &typed));
    let from_file: Vec<_> = from_file.flat_map(|entry| entry.arguments).collect();
    let after = command + 1;
    args.splice(after..after, from_file);
    Ok(args)
}

/// The last value of `--config`.
fn config_file(args: &[OsString]) -> Option<OsString> {
    let mut file = None;
    for (at, arg) in args.iter().enumerate() {
        if arg == "--" {
            break;
        }
        if arg == "--config" {
            file = args.get(at + 1).cloned();
        } else if let Some(value) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            file = Some(OsStr::new(value).to_owned());
        }
    }
    file
}

fn refused(file: &Path, problem: &str) -> clap::Error {
    let end = if problem.ends_with('\n') { "" } else { "\n" };
    clap::Error::raw(ErrorKind::Io, format!("--config {}: {problem}{end}", file.display()))
}

/// Ids of the arguments that were typed, as far as the command line can be understood.
fn typed(args: &[OsString]) -> BTreeSet<String> {
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(args);
    let matches = matches.ok().and_then(|mut matches| matches.remove_subcommand());
    let Some((_, matches)) = matches else { return BTreeSet::new() };
    let is_typed = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    matches.ids().map(clap::Id::as_str).filter(is_typed).map(str::to_owned).collect()
}

/// An entry of a file.
struct Entry {
    name: String,
    arguments: Vec<OsString>,
}

/// The file's entries.
fn entries(file: &Path, flags: &Flags) -> Result<Vec<Entry>, clap::Error> {
    let text = std::fs::read_to_string(file).map_err(|e| refused(file, &e.to_string()))?;
    let table: toml::Table = toml::from_str(&text).map_err(|e| refused(file, &e.to_string()))?;
    let mut entries = Vec::new();
    for (name, value) in table {
        let name = name.replace('_', "-");
        if name == "config" {
            return Err(refused(file, "a file cannot name another: leave `config` out"));
        }
        let mut arguments = Vec::new();
        flags.push(&name, &value, &mut arguments).map_err(|problem| refused(file, &problem))?;
        entries.push(Entry { name, arguments });
    }
    Ok(entries)
}

/// What flags there are.
struct Flags(clap::Command);

impl Flags {
    fn new() -> Self {
        let mut cli = Cli::command();
        cli.build();
        Self(cli.find_subcommand(COMMAND).cloned().unwrap_or_default())
    }

    fn find(&self, name: &str) -> Option<&clap::Arg> {
        let has = |arg: &&clap::Arg| {
            let aliases = arg.get_all_aliases().unwrap_or_default();
            arg.get_long() == Some(name) || aliases.contains(&name)
        };
        self.0.get_arguments().find(has)
    }

    fn is_switch(&self, name: &str) -> bool {
        self.find(name).is_some_and(|arg| !arg.get_action().takes_values())
    }

    /// Whether one of the `typed` arguments says what the flag `name` says.
    fn is_typed(&self, name: &str, typed: &BTreeSet<String>) -> bool {
        // A switch and its opposite are two arguments.
        let opposite = name.strip_prefix("no-").map_or_else(|| format!("no-{name}"), str::to_owned);
        let has = |name: &str| self.find(name).is_some_and(|arg| typed.contains(arg.get_id().as_str()));
        has(name) || has(&opposite) || name == "model" && typed.contains("model_tag")
    }

    /// Adds `--NAME`, or `--NAME=VALUE`. What is no flag is left to clap to refuse.
    fn push(&self, name: &str, value: &Value, arguments: &mut Vec<OsString>) -> Result<(), String> {
        let text = match value {
            Value::Boolean(yes) => {
                let no = format!("no-{name}");
                match (*yes, self.is_switch(name)) {
                    (true, _) | (false, false) => arguments.push(format!("--{name}").into()),
                    (false, true) if self.is_switch(&no) => arguments.push(format!("--{no}").into()),
                    (false, true) => {}
                }
                return Ok(());
            }
            Value::Array(values) => {
                return values.iter().try_for_each(|value| self.push(name, value, arguments));
            }
            Value::Table(table) => {
                serde_json::to_string(table).map_err(|e| format!("`{name}` cannot be JSON: {e}"))?
            }
            Value::String(text) => text.clone(),
            Value::Integer(_) | Value::Float(_) | Value::Datetime(_) => value.to_string(),
        };
        arguments.push(format!("--{name}={text}").into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(args: &[&str]) -> Vec<String> {
        let args = with_config(args.iter().map(OsString::from).collect()).unwrap();
        args.into_iter().map(|arg| arg.into_string().unwrap()).collect()
    }

    #[test]
    fn without_a_command_it_is_serve() {
        assert_eq!(lines(&["nvllm"]), ["nvllm", "serve"]);
        assert_eq!(lines(&["nvllm", "-v"]), ["nvllm", "serve", "-v"]);
        for args in
            [&["nvllm", "--help"][..], &["nvllm", "-V"], &["nvllm", "chat"], &["nvllm", "serve", "-v"]]
        {
            assert_eq!(lines(args), args);
        }
    }

    #[test]
    fn entries_of_a_file_hold_where_nothing_is_typed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "port = 9000\nserved_model_name = [\"a\", \"b\"]\nenable-prefix-caching = false\n\
                    gpu-memory-utilization = 0.5\nparse_special_tokens = true\npin = false\n\
                    default-chat-template-kwargs = { enable_thinking = false }\n";
        std::fs::write(&file, text).unwrap();
        let path = file.path().to_str().unwrap();
        let args = lines(&["nvllm", "-q", "serve", "--config", path, "--port", "1"]);
        let from_file = [
            "--served-model-name=a",
            "--served-model-name=b",
            "--no-enable-prefix-caching",
            "--gpu-memory-utilization=0.5",
            "--parse-special-tokens",
            "--default-chat-template-kwargs={\"enable_thinking\":false}",
        ];
        let mut sorted = args[3..args.len() - 4].to_vec();
        sorted.sort_unstable();
        let mut expected = from_file.to_vec();
        expected.sort_unstable();
        assert_eq!(sorted, expected);
        assert_eq!(&args[args.len() - 2..], ["--port", "1"]);
        // What is typed holds.
        let cli = Cli::try_parse_from(&args).unwrap();
        let crate::commands::Command::Serve(serve) = cli.command else { panic!("another command") };
        assert_eq!(serve.address.port, 1);
    }

    #[test]
    fn what_is_typed_replaces_the_entry_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "served-model-name = [\"a\", \"b\"]\napi-key = \"k\"\nmodel = \"m\"\nverbose = true\n\
                    disable-log-requests = true\nenable-prefix-caching = true\nport = 1\n";
        std::fs::write(&file, text).unwrap();
        let path = file.path().to_str().unwrap();
        let config = format!("--config={path}");
        for (typed, dropped) in [
            (&["--served-model-name", "c"][..], &["--served-model-name=a", "--served-model-name=b"][..]),
            (&["--api-key=other"], &["--api-key=k"]),
            (&["-m", "other"], &["--model=m"]),
            (&["other"], &["--model=m"]),
            (&["-v"], &["--verbose"]),
            (&["--no-enable-log-requests"], &["--disable-log-requests"]),
            (&["--no-enable-prefix-caching"], &["--enable-prefix-caching"]),
            // Whatever else is wrong with it.
            (&["--port", "2", "--ssl-certfile", "x"], &["--port=1"]),
        ] {
            let all = lines(&["nvllm", "serve", &config]);
            let left = lines(&[&["nvllm", "serve", &config], typed].concat());
            let left = &left[2..left.len() - typed.len()];
            let expected: Vec<_> = all[2..].iter().filter(|arg| !dropped.contains(&arg.as_str())).collect();
            assert_eq!(left.iter().collect::<Vec<_>>(), expected, "{typed:?}");
        }
    }
}
