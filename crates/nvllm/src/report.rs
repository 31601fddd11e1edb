//! The closing line of an answer: tokens in and out, how fast, why it stopped, the seed.

use nvllm_core::program::Counts;
use nvllm_engine::{Engine, Model};
use serde_json::{Map, Value, json};

use crate::commands::answer::{Answer, Ending};
use crate::output::note;

/// What is said of one finished or interrupted answer.
pub(crate) struct Report<'a> {
    pub answer: &'a Answer,
    pub seed: u64,
    /// How near decoding came to the memory's limit, where that was asked for.
    pub roofline: Option<Roofline>,
}

impl Report<'_> {
    /// As one line for people.
    pub(crate) fn line(&self) -> String {
        let answer = self.answer;
        let mut line = format!("{} tokens in, {} out", answer.prompt_tokens, answer.tokens.len());
        if let Some(time) = answer.time_to_first_token {
            line += &format!(", first token after {:.0} ms", time.as_secs_f64() * 1e3);
        }
        if let Some(rate) = decode_rate(answer) {
            line += &format!(", {rate:.1} tok/s");
        }
        if let Some(Roofline { share, read_bandwidth }) = self.roofline {
            let (percent, rate) = (share * 100.0, read_bandwidth / 1e9);
            line += &format!(" = {percent:.0} % of the {rate:.1} GB/s that memory is read at");
        }
        let stopped = match answer.ending {
            Ending::EndOfText => "end of text",
            Ending::StopString => "stop string",
            Ending::MaxTokens => "stopped at --max-tokens",
            Ending::ContextFull => "stopped: context full",
            Ending::Interrupted => "(interrupted)",
        };
        line + &format!(", {stopped}, seed {}", self.seed)
    }

    /// `usage`, `seed` and `speed` for programs.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        let answer = self.answer;
        let mut speed = json!({
            "time_to_first_token_s": answer.time_to_first_token.map(|time| time.as_secs_f64()),
            "decode_tokens_per_second": decode_rate(answer),
        });
        if let Some(Roofline { share, read_bandwidth }) = self.roofline {
            speed["read_bandwidth_bytes_per_second"] = read_bandwidth.into();
            speed["read_bandwidth_share"] = share.into();
        }
        let (prompt, completion) = (answer.prompt_tokens, answer.tokens.len());
        let usage = json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        });
        [("usage", usage), ("seed", self.seed.into()), ("speed", speed)]
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect()
    }
}

/// Tokens a second after the first.
fn decode_rate(answer: &Answer) -> Option<f64> {
    let (steps, seconds) = (answer.tokens.len().saturating_sub(1), answer.decode_time.as_secs_f64());
    (steps > 0 && seconds > 0.0).then(|| steps as f64 / seconds)
}

/// Decoding beside the limit that memory sets.
#[derive(Clone, Copy)]
pub(crate) struct Roofline {
    /// Bytes a second that decoding read, over `read_bandwidth`. Above 1 where weights stay in a
    /// cache.
    pub share: f64,
    /// Bytes a second that the backend reads, measured by this process.
    pub read_bandwidth: f64,
}

impl Roofline {
    /// Measures the backend's read bandwidth now, after the answer. `None` if it or the answer's
    /// rate cannot be told; a measurement that fails costs a warning and not the answer.
    pub(crate) fn measure(answer: &Answer, engine: &Engine, model: &Model) -> Option<Self> {
        let rate = decode_rate(answer)?;
        let measured = engine.measure_read_bandwidth().unwrap_or_else(|error| {
            note!("warning: the memory's read bandwidth cannot be measured: {error}");
            None
        });
        let (read_bandwidth, info) = (measured?, engine.info().ok()?);
        let context = answer.prompt_tokens + answer.tokens.len() / 2;
        let cost = model.spec.programs[0].cost(&Counts::decode(1, context), &info.limits, &info.weights);
        let bytes = cost.weight_bytes + cost.kv_bytes;
        Some(Self { share: rate * bytes / read_bandwidth, read_bandwidth })
    }
}
