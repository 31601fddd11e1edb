//! Where `nvllm generate` takes its prompts from.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::Value;

/// Exactly one of these says what to continue.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct PromptArgs {
    /// The text to continue; `-` reads standard input.
    #[arg(value_name = "PROMPT", value_parser = NonEmptyStringValueParser::new())]
    text: Option<String>,
    /// The same as an option.
    #[arg(short = 'p', long = "prompt", value_name = "PROMPT", allow_hyphen_values = true, value_parser = NonEmptyStringValueParser::new())]
    option: Option<String>,
    /// Read the prompt from a file; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Continue every prompt of a file, all at once: one a line, or `.jsonl` with a string or
    /// {"prompt": ..} a line.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
}

impl PromptArgs {
    /// The prompts, none of them empty, and whether they are those of `--prompts`.
    pub(super) fn read(&self) -> Result<(Vec<String>, bool)> {
        if let Some(path) = &self.prompts {
            let is_json = path.extension().is_some_and(|extension| extension == "jsonl");
            let prompts = prompts(&read(path)?, is_json).with_context(|| shown(path))?;
            return Ok((prompts, true));
        }
        let prompt = match (&self.text, &self.option, &self.file) {
            (_, _, Some(path)) => read(path)?,
            (Some(text), ..) if text == "-" => read(Path::new("-"))?,
            (Some(text), ..) | (_, Some(text), _) => text.clone(),
            (None, None, None) => String::new(),
        };
        if prompt.is_empty() {
            bail!("the prompt is empty; give a text to continue");
        }
        Ok((vec![prompt], false))
    }
}

/// Fields of a request of OpenAI's or vLLM's that change an answer; other fields (an id, a label)
/// are passed over.
const FOR_ALL: [&str; 14] = [
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "ignore_eos",
    "min_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
];

/// The prompts of a file of many; empty lines are passed over.
fn prompts(text: &str, is_json: bool) -> Result<Vec<String>> {
    let mut prompts = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let prompt = if is_json { json_prompt(line) } else { Ok(line.to_owned()) };
        prompts.push(prompt.with_context(|| format!("line {}", number + 1))?);
    }
    if prompts.is_empty() {
        bail!("there are no prompts in it; give one a line");
    }
    Ok(prompts)
}

fn json_prompt(line: &str) -> Result<String> {
    let value: Value = serde_json::from_str(line).context("is not JSON")?;
    if let Some(name) = FOR_ALL.iter().find(|name| value.get(name).is_some()) {
        bail!("has a `{name}` of its own; one setting is used for all prompts: give it as an option");
    }
    match value.as_str().or_else(|| value["prompt"].as_str()) {
        Some("") => bail!("the prompt is empty; give a text to continue"),
        Some(prompt) => Ok(prompt.to_owned()),
        None => bail!("is neither a string nor an object with a string `prompt`"),
    }
}

/// A text file or standard input, as UTF-8.
pub(super) fn read(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.with_context(|| format!("cannot read {}", shown(path)))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("{} is not UTF-8 (byte {at}); convert it first", shown(path))
    })?;
    // A byte order mark is an editor's and not the text's.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".into() } else { path.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::prompts;

    #[test]
    fn one_prompt_a_line() {
        assert_eq!(prompts("a b\r\n\n{c}\n", false).unwrap(), ["a b", "{c}"]);
        let lines = "\"a\\nb\"\n\n{\"prompt\": \"c\", \"id\": 1}\n";
        assert_eq!(prompts(lines, true).unwrap(), ["a\nb", "c"]);
        for (bad, word) in [
            ("x", "line 1"),
            ("\"a\"\n3", "line 2"),
            ("\"\"", "empty"),
            ("\n", "no prompts"),
            ("{\"prompt\": \"a\", \"top_k\": 3}", "`top_k`"),
        ] {
            let message = format!("{:#}", prompts(bad, true).unwrap_err());
            assert!(message.contains(word), "{bad}: {message}");
        }
    }
}
