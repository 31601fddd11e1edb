//! What may be submitted: every refusal of a request, made on the caller's thread.

use std::sync::Arc;
use std::time::Instant;

use nvllm_core::{EntryId, RequestLimits};
use nvllm_sched::{NewSequence, SchedConfig, TenantId};

use crate::answer::{Thinking, ThinkingBudget};
use crate::grammar::{Grammar, GrammarMask};
use crate::request::MAX_SALT_LEN;
use crate::text::Tokenizer;
use crate::text_stage::TextStream;
use crate::token_mask::{TokenLists, TokenMask};
use crate::{EngineError, Request, Result};

/// What requests are checked against. Fixed once the model is loaded, so that no thread has to be
/// asked.
pub(crate) struct Validator {
    pub(crate) vocab_size: usize,
    pub(crate) request_limits: RequestLimits,
    pub(crate) sched: SchedConfig,
    /// The program of hidden states; `None` if the model was loaded without it.
    pub(crate) embeddings: Option<EntryId>,
    /// Where the scheduler counts deadlines from.
    pub(crate) epoch: Instant,
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
}

/// A request that can run.
pub(crate) struct Checked {
    pub(crate) new: NewSequence,
    /// Choices.
    pub(crate) n: usize,
    /// Which tokens each choice may sample; none if all.
    pub(crate) masks: Vec<Box<dyn TokenMask>>,
    /// The text that comes of each choice; `None` if the model has no tokenizer.
    pub(crate) texts: Vec<Option<TextStream>>,
}

impl Validator {
    /// What `request` of `tenant`, submitted at `now`, asks for.
    ///
    /// Errors if the request could not run even alone. What passes, the scheduler takes, and no
    /// step is refused for it: a step that the backend refuses would fail every request in it.
    pub(crate) fn check(&self, mut request: Request, tenant: TenantId, now: Instant) -> Result<Checked> {
        self.request_limits.check(&request.sampling)?;
        request.sampling.check(self.vocab_size)?;
        let vocab_size = self.vocab_size;
        if let Some(&token) = request.prompt.iter().find(|t| t.index() >= vocab_size) {
            return Err(EngineError::PromptToken { token, vocab_size });
        }
        let refused = |field, problem: String| Err(EngineError::RequestField { field, problem });
        if let Some(salt) = request.cache_salt.as_ref().filter(|s| s.is_empty() || s.len() > MAX_SALT_LEN) {
            return refused("cache_salt", format!("has {} bytes; give 1 to {MAX_SALT_LEN}", salt.len()));
        }
        if let Some(late) = request.deadline.and_then(|at| now.checked_duration_since(at)) {
            return refused("deadline", format!("passed {} s ago; give one to come", late.as_secs_f64()));
        }
        request.check_embed()?;
        let n = request.num_choices();
        let prompt = std::mem::take(&mut request.prompt);
        let mut new = NewSequence::new(prompt, Arc::new(request.sampling.clone()));
        new.max_tokens = request.max_tokens;
        new.logprobs = request.logprobs;
        new.prompt_logprobs = request.prompt_logprobs;
        new.logits = request.logits;
        if request.embed {
            let off = || EngineError::Option {
                option: "embeddings",
                problem: "is off: load the model with it to have embeddings".into(),
            };
            new.entry = self.embeddings.ok_or_else(off)?;
            (new.last_row, new.max_tokens) = (true, Some(0));
        }
        new.priority = request.priority;
        new.positions = request.positions.take().map(Into::into);
        new.cache_salt = request.cache_salt.take().map(Into::into);
        let grammar = self.grammar(request.grammar.take(), request.may_think, &new)?;
        let budget = self.thinking_budget(request.thinking_budget.take(), &new)?;
        let lists = TokenLists::new(&mut request, vocab_size)?;
        new.masked = lists.is_some() || grammar.is_some() || budget.is_some();
        new.deadline = request.deadline.map(|at| at.saturating_duration_since(self.epoch));
        new.check(n, &self.sched)?;
        // Behind that check, which knows only the tenants that there were at the start.
        new.tenant = tenant;
        // An embedding has no text.
        let tokenizer = self.tokenizer.as_ref().filter(|_| !request.embed);
        let texts = (0..n).map(|_| TextStream::new(tokenizer, &request));
        let texts = texts.collect::<Result<_>>()?;
        let rules = || {
            let lists = lists.clone().map(|lists| Box::new(lists) as Box<dyn TokenMask>);
            let grammar = grammar.as_ref().map(|(grammar, thinking)| {
                let mask = GrammarMask::new(grammar, &new.sampling.stop_tokens, *thinking);
                Box::new(mask) as Box<dyn TokenMask>
            });
            let budget = budget.clone().map(|budget| Box::new(budget) as Box<dyn TokenMask>);
            let rules: Vec<_> = lists.into_iter().chain(grammar).chain(budget).collect();
            Box::new(rules) as Box<dyn TokenMask>
        };
        let masks = (0..n).filter(|_| new.masked).map(|_| rules()).collect();
        Ok(Checked { new, n, masks, texts })
    }

    /// A request's grammar, with the thoughts that the answer begins behind. Errors if it was
    /// compiled for another model.
    fn grammar(
        &self,
        grammar: Option<Grammar>,
        may_think: bool,
        new: &NewSequence,
    ) -> Result<Option<(Grammar, Thinking)>> {
        let Some(grammar) = grammar else { return Ok(None) };
        match &self.tokenizer {
            Some(tokenizer) if grammar.vocab_size() == self.vocab_size => {
                let thinking = Thinking::behind(tokenizer, &new.prompt);
                Ok(Some((grammar, if may_think { thinking } else { thinking.if_open() })))
            }
            _ => {
                let problem = "was compiled for another model; compile it for this one".into();
                Err(EngineError::RequestField { field: "grammar", problem })
            }
        }
    }

    /// The rule that ends a request's thoughts. Errors if the model's thoughts have no end.
    fn thinking_budget(&self, budget: Option<usize>, new: &NewSequence) -> Result<Option<ThinkingBudget>> {
        let Some(budget) = budget else { return Ok(None) };
        let known = self.tokenizer.as_ref().filter(|tokenizer| tokenizer.token_id("</think>").is_some());
        let Some(tokenizer) = known else {
            return Err(EngineError::RequestField {
                field: "thinking_token_budget",
                problem: "is for models whose vocabulary has `</think>`, and this one's has not; leave it out".into(),
            });
        };
        Ok(Some(ThinkingBudget::new(Thinking::behind(tokenizer, &new.prompt), budget)))
    }
}
