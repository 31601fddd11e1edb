//! The requests that are compared.

use nvllm_core::{SamplingParams, TokenId};

use super::options::VerifyOptions;
use crate::grammar::{Grammar, GrammarCompiler, StructuredOutput};
use crate::{EngineError, Model, Request, Result};

/// Tokens that a context has to hold for prompts of several lengths with answers.
const LEAST_CONTEXT: usize = 64;

/// Prompt lengths after the longest: around a block's length, below and above an attention kernel's
/// chunk, and a single token.
const LENS: [usize; 12] = [37, 64, 1, 17, 7, 2, 100, 16, 48, 150, 15, 220];

/// What some answers follow; it has no end.
const WORDS: &str = "([A-Za-z]+[ ,.])*";

/// Likeliest tokens that are scored beside each token.
const TOP: u16 = 5;

/// Choices of the requests that are also run as several.
pub(super) const CHOICES: usize = 3;

/// A set of requests.
pub(super) struct Cases {
    pub requests: Vec<Request>,
    /// Unrelated requests, for company.
    pub companions: Vec<Request>,
    /// Tokens of the longest request, prompt and output together.
    pub context: usize,
    /// The longest prompt whose tokens are scored.
    pub scored_len: usize,
    /// Another order of the requests.
    pub shuffled: Vec<usize>,
}

impl Cases {
    /// Draws the requests by the seed of `options`.
    ///
    /// Errors if the context is too short.
    pub(super) fn draw(model: &Model, options: &VerifyOptions) -> Result<Self> {
        let most = options.load.max_model_len.unwrap_or(usize::MAX).min(model.spec.max_positions);
        if most < LEAST_CONTEXT {
            let problem = format!("is {most}; verify needs {LEAST_CONTEXT} or more");
            return Err(EngineError::Option { option: "max-model-len", problem });
        }
        let (longest, max_tokens, num_requests) = if options.quick { (96, 8, 8) } else { (320, 24, 16) };
        let max_tokens = max_tokens.min(most / 4);
        let longest = longest.min(most - max_tokens);
        let num_requests = options.num_requests.unwrap_or(num_requests).max(1);
        let mut draw = Draw { state: options.seed, vocab_size: model.spec.vocab_size };
        let lens: Vec<usize> =
            std::iter::once(longest).chain(LENS.into_iter().filter(|l| *l < longest)).collect();
        let shared = draw.tokens(longest);
        // A model without a tokenizer follows no grammar.
        let words = GrammarCompiler::new(model).ok();
        let words =
            words.map(|compiler| compiler.compile(&StructuredOutput::Regex(WORDS.into()))).transpose()?;
        let request = |i: usize, draw: &mut Draw| {
            let len = lens[i % lens.len()];
            // Half of the prompts begin alike.
            let num_shared = if (i / 2).is_multiple_of(2) { len * 3 / 4 } else { 0 };
            let own = draw.tokens(len - num_shared);
            let prompt: Vec<TokenId> = shared[..num_shared].iter().copied().chain(own).collect();
            let scored = i % 5 == 2 && prompt.len() <= 64;
            Request {
                prompt,
                sampling: sampling(i),
                max_tokens: Some(max_tokens),
                logprobs: Some(TOP.min(model.spec.vocab_size as u16)),
                prompt_logprobs: scored.then_some(TOP),
                ..masked(i, model.spec.vocab_size, words.as_ref())
            }
        };
        let requests: Vec<Request> = (0..num_requests).map(|i| request(i, &mut draw)).collect();
        let scored = requests.iter().filter(|r| r.prompt_logprobs.is_some());
        let scored_len = scored.map(|r| r.prompt.len()).max().unwrap_or(0);
        let companions = (0..num_requests).map(|i| Request {
            logprobs: None,
            prompt_logprobs: None,
            ..request(i + 3, &mut draw)
        });
        Ok(Self {
            companions: companions.collect(),
            context: longest + max_tokens,
            scored_len,
            shuffled: draw.permutation(num_requests),
            requests,
        })
    }

    /// Whether a request is also run as several choices.
    pub(super) fn has_choices(request: usize) -> bool {
        request % 6 == 1
    }
}

/// Some may sample every other token only, and no token twice in a row; some follow a grammar.
fn masked(i: usize, vocab_size: usize, words: Option<&Grammar>) -> Request {
    let allowed = || (0..vocab_size as u32).step_by(2).map(TokenId);
    match i % 7 {
        1 => Request {
            allowed_tokens: Some(allowed().collect()),
            bad_words: allowed().map(|token| vec![token, token]).collect(),
            ..Request::default()
        },
        4 => Request { grammar: words.cloned(), ..Request::default() },
        _ => Request::default(),
    }
}

/// Greedy, sampled, or penalised.
fn sampling(i: usize) -> SamplingParams {
    let seed = i as u64;
    let greedy = SamplingParams { seed, ..SamplingParams::default() };
    let sampled = SamplingParams { temperature: 0.8, ..greedy.clone() };
    match i % 4 {
        0 => greedy,
        1 => sampled,
        2 => SamplingParams { repetition_penalty: 1.3, presence_penalty: 0.5, ..greedy },
        _ => SamplingParams { top_k: 50, top_p: 0.9, frequency_penalty: 0.5, ..sampled },
    }
}

/// Random numbers: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"
/// (SplitMix64).
struct Draw {
    state: u64,
    vocab_size: usize,
}

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    fn tokens(&mut self, num: usize) -> Vec<TokenId> {
        (0..num).map(|_| TokenId(self.below(self.vocab_size) as u32)).collect()
    }

    fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}
