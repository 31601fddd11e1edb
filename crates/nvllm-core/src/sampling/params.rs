//! Sampling parameters, under the names that OpenAI's and vLLM's APIs give them.

use crate::{CoreError, Result, TokenId};

/// How one sequence is sampled.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keeps this many; 0 keeps all.
    pub top_k: u32,
    /// Keeps this much mass; 1 keeps all.
    pub top_p: f32,
    /// Keeps what has at least this share of the largest probability; 0 keeps all.
    pub min_p: f32,
    /// Above 1 makes tokens of prompt and output less likely; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once for every token of the output.
    pub presence_penalty: f32,
    /// Subtracted for each occurrence in the output.
    pub frequency_penalty: f32,
    /// Added to single logits.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Key of the uniforms.
    pub seed: u64,
    /// Which of several choices for one prompt this is: they share a seed and differ by this.
    pub choice: u32,
    /// Stop tokens are suppressed until the output has this many tokens.
    pub min_tokens: u32,
    /// Tokens that end the sequence; the sampler only suppresses them under `min_tokens`.
    pub stop_tokens: Vec<TokenId>,
}

impl Default for SamplingParams {
    /// Greedy, without penalties.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            choice: 0,
            min_tokens: 0,
            stop_tokens: Vec::new(),
        }
    }
}

impl SamplingParams {
    /// Checks every range, and that biased and stop tokens are in a vocabulary of `vocab_size`.
    pub fn check(&self, vocab_size: usize) -> Result<()> {
        self.check_ranges()?;
        let outside = |field, value| {
            let range = format!("use token ids from 0 to {}", vocab_size.saturating_sub(1));
            Err(CoreError::BadSampling { field, value, range })
        };
        if let Some((token, _)) = self.logit_bias.iter().find(|(t, _)| t.index() >= vocab_size) {
            return outside("logit_bias", format!("for token {token}"));
        }
        match self.stop_tokens.iter().find(|t| t.index() >= vocab_size) {
            Some(token) => outside("stop_token_ids", token.to_string()),
            None => Ok(()),
        }
    }

    /// Checks what can be checked without a model: every number's range.
    pub fn check_ranges(&self) -> Result<()> {
        let inside = |field, value: f32, ok: bool, range: &str| {
            if ok {
                return Ok(());
            }
            Err(CoreError::BadSampling { field, value: value.to_string(), range: range.into() })
        };
        let Self {
            temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, ..
        } = *self;
        inside("temperature", temperature, (0.0..=100.0).contains(&temperature), "use 0 (greedy) to 100")?;
        inside("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "use a number above 0 and up to 1")?;
        inside("min_p", min_p, (0.0..=1.0).contains(&min_p), "use 0 to 1")?;
        let positive = repetition_penalty > 0.0 && repetition_penalty <= 100.0;
        inside("repetition_penalty", repetition_penalty, positive, "use a number above 0 and up to 100")?;
        let two = -2.0..=2.0;
        inside("presence_penalty", presence_penalty, two.contains(&presence_penalty), "use -2 to 2")?;
        inside("frequency_penalty", frequency_penalty, two.contains(&frequency_penalty), "use -2 to 2")?;
        for &(_, bias) in &self.logit_bias {
            inside("logit_bias", bias, (-100.0..=100.0).contains(&bias), "use -100 to 100")?;
        }
        Ok(())
    }

    /// Whether penalties need token counts.
    pub fn needs_counts(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}
