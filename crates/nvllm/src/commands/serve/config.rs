//! The command line as it is meant: `serve` if no command is given, and the flags of a file before
//! those that were typed.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::error::ErrorKind;
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
    let from_file = arguments(Path::new(&file))?;
    // Alone first, so that what is wrong with the file is not looked for on the command line.
    let alone = ["nvllm", COMMAND].map(OsString::from).into_iter().chain(from_file.clone());
    if let Err(error) = Cli::try_parse_from(alone) {
        let problem = error.render().to_string();
        let problem = problem.strip_prefix("error: ").unwrap_or(&problem);
        return Err(refused(Path::new(&file), problem));
    }
    args.splice(command + 1..command + 1, from_file);
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

/// The file's entries as arguments.
fn arguments(file: &Path) -> Result<Vec<OsString>, clap::Error> {
    let text = std::fs::read_to_string(file).map_err(|e| refused(file, &e.to_string()))?;
    let table: toml::Table = toml::from_str(&text).map_err(|e| refused(file, &e.to_string()))?;
    let flags = Flags::new();
    let mut arguments = Vec::new();
    for (name, value) in table {
        let name = name.replace('_', "-");
        if name == "config" {
            return Err(refused(file, "a file cannot name another: leave `config` out"));
        }
        flags.push(&name, &value, &mut arguments).map_err(|problem| refused(file, &problem))?;
    }
    Ok(arguments)
}

/// What flags there are.
struct Flags(clap::Command);

impl Flags {
    fn new() -> Self {
        let mut cli = Cli::command();
        cli.build();
        Self(cli.find_subcommand(COMMAND).cloned().unwrap_or_default())
    }

    fn is_switch(&self, name: &str) -> bool {
        let flag = self.0.get_arguments().find(|arg| arg.get_long() == Some(name));
        flag.is_some_and(|arg| !arg.get_action().takes_values())
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
    fn entries_of_a_file_come_before_what_is_typed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "port = 9000\nserved_model_name = [\"a\", \"b\"]\nenable-prefix-caching = false\n\
                    gpu-memory-utilization = 0.5\nparse_special_tokens = true\npin = false\n\
                    default-chat-template-kwargs = { enable_thinking = false }\n";
        std::fs::write(&file, text).unwrap();
        let path = file.path().to_str().unwrap();
        let args = lines(&["nvllm", "-q", "serve", "--config", path, "--port", "1"]);
        let from_file = [
            "--port=9000",
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
}
