//! From what a client asks for to a grammar, within limits of time and memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use nvllm_core::TokenId;

use super::vocabulary::vocabulary;
use super::{Grammar, GrammarMask, StructuredOutput, in_one_line};
use crate::answer::Thinking;
use crate::text::Tokenizer;
use crate::token_mask::{TokenMask as _, all_tokens};
use crate::{EngineError, Model, Result};

/// Bytes of a schema, a regular expression, a grammar, or of all choices together.
const MAX_LEN: usize = 128 << 10;
/// Compiled grammars that are kept, the last used ones.
const MAX_KEPT: usize = 64;

/// States of one sequence's lexer, a kilobyte or two each. The library's own limit lets a grammar
/// that is made for it take hundreds of megabytes.
const MAX_LEXER_STATES: usize = 32 << 10;

/// The library's limits: they bound what compiling and a mask cost, whatever a client sends.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: MAX_LEXER_STATES,
        precompute_large_lexemes: false,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// Compiles grammars for one model, and keeps those that were used last.
pub struct GrammarCompiler {
    tokenizer: Arc<Tokenizer>,
    vocab_size: usize,
    eos: Vec<TokenId>,
    /// Made with the first grammar: a large vocabulary takes a while.
    factory: OnceLock<Result<ParserFactory, String>>,
    kept: Mutex<Kept>,
}

/// Grammars by what they were compiled from, with when they were last used.
#[derive(Default)]
struct Kept {
    by_key: HashMap<String, (Grammar, u64)>,
    uses: u64,
}

impl GrammarCompiler {
    /// A compiler for `model`. Errors if the model has no tokenizer.
    pub fn new(model: &Model) -> Result<Self> {
        Ok(Self {
            tokenizer: Arc::clone(model.tokenizer()?),
            vocab_size: model.spec.vocab_size,
            eos: model.eos.clone(),
            factory: OnceLock::new(),
            kept: Mutex::default(),
        })
    }

    /// The grammar, if it was compiled before and is still kept. Waits for nothing.
    pub fn kept(&self, output: &StructuredOutput) -> Option<Grammar> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let now = kept.uses;
        let (grammar, used) = kept.by_key.get_mut(&output.key())?;
        *used = now;
        Some(grammar.clone())
    }

    /// Compiles a grammar, on this thread. The first one of a model takes the vocabulary's time
    /// besides.
    ///
    /// # Errors
    /// [`EngineError::RequestField`] with the field's name in vLLM's words if the grammar is wrong,
    /// too large, or asks for what is not supported.
    pub fn compile(&self, output: &StructuredOutput) -> Result<Grammar> {
        if let Some(grammar) = self.kept(output) {
            return Ok(grammar);
        }
        let compiled = self.compile_anew(output);
        let grammar =
            compiled.map_err(|problem| EngineError::RequestField { field: output.field(), problem })?;
        self.keep(output.key(), grammar.clone());
        Ok(grammar)
    }

    fn compile_anew(&self, output: &StructuredOutput) -> Result<Grammar, String> {
        let len = output.key().len();
        if len > MAX_LEN {
            return Err(format!("has {len} bytes; give {MAX_LEN} at most"));
        }
        let grammar = output.grammar(&self.tokenizer)?;
        let factory = self.factory.get_or_init(|| self.factory()).as_ref().map_err(Clone::clone)?;
        let refused =
            |error: String| format!("cannot be followed: {error}; change or leave out what it names");
        let parser = factory.create_parser(grammar).map_err(|error| refused(in_one_line(error)))?;
        let grammar = Grammar::new(self.vocab_size, self.eos.clone(), Matcher::new(Ok(parser)));
        // What has no beginning is told before anything is queued.
        let mut rule = GrammarMask::new(&grammar, &[], Thinking::Over);
        let mut first = all_tokens(self.vocab_size);
        rule.restrict(&[], &mut first).map_err(refused)?;
        if !rule.is_complete() && first.iter().all(|word| *word == 0) {
            return Err("takes no text at all; change it".into());
        }
        Ok(grammar)
    }

    fn factory(&self) -> Result<ParserFactory, String> {
        let vocabulary = vocabulary(&self.tokenizer, self.vocab_size, &self.eos)?;
        let slices = SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&vocabulary, InferenceCapabilities::default(), &slices);
        let mut factory = factory
            .map_err(|error| format!("cannot be followed with this tokenizer: {}", in_one_line(error)))?;
        *factory.quiet().limits_mut() = limits();
        Ok(factory)
    }

    fn keep(&self, key: String, grammar: Grammar) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = kept.uses;
        kept.by_key.insert(key, (grammar, now));
        if kept.by_key.len() > MAX_KEPT {
            let oldest = kept.by_key.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            oldest.and_then(|key| kept.by_key.remove(&key));
        }
    }
}
