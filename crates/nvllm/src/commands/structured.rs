//! What `nvllm generate` lets an answer follow.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use nvllm_engine::grammar::{Grammar, GrammarCompiler, StructuredOutput};
use nvllm_engine::{EngineError, Model};

use super::prompts::read;

/// At most one of these says what an answer is to follow.
#[derive(Args)]
#[group(multiple = false)]
#[command(next_help_heading = "Structured output")]
pub(crate) struct StructuredArgs {
    /// Answer with JSON that follows the JSON schema in this file.
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
    /// Answer with a text that this regular expression matches as a whole.
    #[arg(long, value_name = "REGEX")]
    regex: Option<String>,
    /// Answer with a text of the grammar in this file, in Lark syntax.
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
}

impl StructuredArgs {
    /// The grammar that was asked for, compiled for `model`.
    pub(super) fn compile(&self, model: &Model) -> Result<Option<Grammar>> {
        let (flag, output) = match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(path), ..) => ("--json-schema", StructuredOutput::Json(schema(path)?)),
            (_, Some(regex), _) => ("--regex", StructuredOutput::Regex(regex.clone())),
            (.., Some(path)) => ("--grammar", StructuredOutput::Grammar(read(path)?)),
            (None, None, None) => return Ok(None),
        };
        let compiled = GrammarCompiler::new(model)?.compile(&output);
        compiled.map(Some).map_err(|error| match error {
            EngineError::RequestField { problem, .. } => anyhow::anyhow!("{flag} {problem}"),
            other => other.into(),
        })
    }
}

fn schema(path: &Path) -> Result<serde_json::Value> {
    let text = read(path)?;
    serde_json::from_str(&text).with_context(|| format!("--json-schema {}: not valid JSON", path.display()))
}
