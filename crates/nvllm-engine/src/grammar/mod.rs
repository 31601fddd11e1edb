//! Structured output: answers that follow a JSON schema, a regular expression, a list of choices or
//! a grammar, and calls of tools.
//!
//! What a client asks for ([`StructuredOutput`]) is compiled by a [`GrammarCompiler`] into a
//! [`Grammar`], which a request carries ([`Request::grammar`](crate::Request)). The crate
//! `llguidance` parses and matches; here are its vocabulary, its limits, what is refused or
//! rewritten before it sees a schema, and the rule that a sequence is masked by.
//!
//! Compiling happens on the caller's thread, within limits: the engine's own threads never do it.
//! Every sequence has a matcher of its own, a deep copy of the compiled one, so
//! that neither its masks nor its limits depend on what else is matched.

mod compiler;
mod lark;
mod mask;
mod schema;
mod structural_tag;
mod structured_output;
mod tool_calls;
mod vocabulary;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::Matcher;
use nvllm_core::TokenId;

pub use self::compiler::GrammarCompiler;
pub(crate) use self::mask::GrammarMask;
pub use self::structured_output::StructuredOutput;
pub use self::tool_calls::{ToolCalls, ToolChoice};

/// A compiled grammar, for models with the tokenizer that it was compiled for. Clones share it.
#[derive(Clone)]
pub struct Grammar(Arc<Compiled>);

struct Compiled {
    vocab_size: usize,
    /// The model's end tokens.
    eos: Vec<TokenId>,
    /// At the beginning of an output, and never advanced.
    matcher: Mutex<Matcher>,
}

impl Grammar {
    fn new(vocab_size: usize, eos: Vec<TokenId>, matcher: Matcher) -> Self {
        Self(Arc::new(Compiled { vocab_size, eos, matcher: Mutex::new(matcher) }))
    }

    fn eos(&self) -> &[TokenId] {
        &self.0.eos
    }

    /// Logits of the models that it is for.
    pub(crate) fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }

    /// A matcher at the beginning of an output, which shares nothing with others.
    fn matcher(&self) -> Matcher {
        self.0.matcher.lock().unwrap_or_else(PoisonError::into_inner).deep_clone()
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("vocab_size", &self.0.vocab_size).finish_non_exhaustive()
    }
}

/// What the library says of an error, in one line: it may add the grammar, its state and a
/// backtrace.
fn in_one_line(error: impl fmt::Display) -> String {
    const LONGEST: usize = 300;
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.take_while(|line| !line.starts_with('<')).collect::<Vec<_>>().join("; ");
    let end = line.char_indices().nth(LONGEST).map_or(line.len(), |(at, _)| at);
    let more = if end < line.len() { ".." } else { "" };
    format!("{}{more}", &line[..end]).escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'")
}

#[cfg(test)]
mod tests;
