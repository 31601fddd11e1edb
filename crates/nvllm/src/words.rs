//! Where text becomes a message: an error as one line, with flags by their names and nothing that a
//! terminal would obey.

use std::fmt;

use nvllm_bench::BenchError;
use nvllm_core::CoreError;
use nvllm_engine::EngineError;

/// A value on the command line that cannot be: exit code 2, as for what `clap` refuses.
#[derive(Debug)]
pub(crate) struct BadArgument(pub String);

impl fmt::Display for BadArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadArgument {}

/// Flags that do not go together: exit code 2, with the usage, as for what `clap` refuses.
#[derive(Debug)]
pub(crate) struct UsageError(pub &'static str);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for UsageError {}

/// An error as one line: what was being done, then what went wrong.
pub(crate) fn error_line(error: &anyhow::Error) -> String {
    let own =
        |cause: &(dyn std::error::Error + 'static)| sampling(cause).unwrap_or_else(|| cause.to_string());
    let parts: Vec<String> = error.chain().map(own).collect();
    printable(&parts.join(": ")).replace('\n', "\\n")
}

/// Text from anywhere (a checkpoint, a hub, a path) for a terminal: control characters other than
/// tabs and ends of lines, and characters that turn the direction of writing, are shown and not
/// sent.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if turns || c.is_control() && !matches!(c, '\t' | '\n') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A sampling parameter that is out of range, called by its flag; or by its place in the model,
/// which is the only source of some.
pub(crate) fn sampling(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let core = core(error)?;
    let CoreError::BadSampling { field, value, range } = core else { return None };
    let name = match *field {
        "stop_token_ids" => "`eos_token_id` of the model's generation_config.json or config.json".into(),
        field => format!("--{}", field.replace('_', "-")),
    };
    Some(format!("{name} is {value}: {range}"))
}

/// The core's error in whatever brought it here.
fn core<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e CoreError> {
    let of_engine = |e: &'e EngineError| match e {
        EngineError::Core(core) => Some(core),
        _ => None,
    };
    if let Some(core) = error.downcast_ref::<CoreError>() {
        return Some(core);
    }
    if let Some(engine) = error.downcast_ref::<EngineError>() {
        return of_engine(engine);
    }
    match error.downcast_ref::<BenchError>()? {
        BenchError::Core(core) => Some(core),
        BenchError::Engine(engine) => of_engine(engine),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};
    use nvllm_core::{SamplingParams, TokenId};

    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(
            printable("plain, Grüße, 中文, 🙂 and \"quotes\""),
            "plain, Grüße, 中文, 🙂 and \"quotes\""
        );
        assert_eq!(printable("a\x1b]0;title\x07b\nc\td\x7f\r"), "a\\u{1b}]0;title\\u{7}b\nc\td\\u{7f}\\r");
        assert_eq!(printable("\u{9b}31m \u{202e}txt"), "\\u{9b}31m \\u{202e}txt");
        let error = anyhow!("tensor `\x1b[31m\n` is missing").context("in \x07");
        assert_eq!(error_line(&error), "in \\u{7}: tensor `\\u{1b}[31m\\n` is missing");
    }

    #[test]
    fn sampling_parameters_are_called_by_their_flags() {
        let line = |params: SamplingParams| {
            let error = EngineError::from(params.check(320).unwrap_err());
            error_line(&error.into())
        };
        let of = SamplingParams::default;
        assert_eq!(
            line(SamplingParams { top_p: 0.0, ..of() }),
            "--top-p is 0: use a number above 0 and up to 1"
        );
        let nan = SamplingParams { frequency_penalty: f32::NAN, ..of() };
        assert_eq!(line(nan), "--frequency-penalty is NaN: use -2 to 2");
        let bias = SamplingParams { logit_bias: vec![(TokenId(400), 1.0)], ..of() };
        assert_eq!(line(bias), "--logit-bias is for token 400: use token ids from 0 to 319");
        let stop = line(SamplingParams { stop_tokens: vec![TokenId(400)], ..of() });
        assert!(stop.contains("generation_config.json"), "{stop}");
    }

    #[test]
    fn a_cause_is_said_once() {
        let io = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let core = || CoreError::Io { path: "m/model.safetensors".into(), cause: io() };
        let model = EngineError::Model { dir: "m".into(), cause: core() };
        for error in [anyhow::Error::from(core()), EngineError::from(core()).into(), model.into()] {
            assert_eq!(error_line(&error), "cannot read m/model.safetensors: entity not found");
        }
        let read: anyhow::Result<()> = Err(io()).context("cannot read ids.json");
        assert_eq!(error_line(&read.unwrap_err()), "cannot read ids.json: entity not found");
    }
}
