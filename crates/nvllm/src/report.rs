//! The closing line: what was generated, how fast, and how near the limit of this machine.

use anyhow::Result;
use nvllm_core::WeightFormat;
use nvllm_core::program::Counts;
use nvllm_engine::{Engine, Finished, Model};
use serde_json::{Value, json};

/// The speed of one finished request.
pub(crate) struct Speed {
    /// Seconds from submission to the first token.
    pub first_token: Option<f64>,
    /// Tokens a second after the first.
    pub decode_rate: Option<f64>,
    /// Bytes a second that decoding moved, over what the backend reads, both measured by this process.
    pub bandwidth_share: Option<f64>,
    read_bandwidth: Option<f64>,
}

impl Speed {
    /// Measures the backend's read bandwidth now, after the request, so that it delays nothing.
    pub(crate) fn of(finished: &Finished, engine: &Engine, model: &Model) -> Result<Self> {
        let steps = finished.output_tokens.saturating_sub(1);
        let seconds = finished.decode_time.as_secs_f64();
        let decode_rate = (steps > 0 && seconds > 0.0).then(|| steps as f64 / seconds);
        let read_bandwidth = if decode_rate.is_some() { engine.measure_read_bandwidth()? } else { None };
        let context = finished.prompt_tokens + finished.output_tokens / 2;
        let bytes = bytes_per_token(engine, model, context);
        let bandwidth_share = decode_rate.zip(read_bandwidth).map(|(rate, limit)| rate * bytes / limit);
        let first_token = finished.time_to_first_token.map(|t| t.as_secs_f64());
        Ok(Self { first_token, decode_rate, bandwidth_share, read_bandwidth })
    }

    /// As one line for people.
    pub(crate) fn line(&self, finished: &Finished) -> String {
        let mut line = format!("{} tokens in, {} out", finished.prompt_tokens, finished.output_tokens);
        if let Some(seconds) = self.first_token {
            line += &format!(", first after {:.0} ms", seconds * 1e3);
        }
        if let Some(rate) = self.decode_rate {
            line += &format!(", then {rate:.1} tok/s");
        }
        if let (Some(share), Some(limit)) = (self.bandwidth_share, self.read_bandwidth) {
            line += &format!(
                " = {:.0} % of the read bandwidth measured now ({:.1} GB/s)",
                share * 100.0,
                limit / 1e9
            );
        }
        line
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "time_to_first_token_s": self.first_token,
            "decode_tokens_per_second": self.decode_rate,
            "read_bandwidth_bytes_per_second": self.read_bandwidth,
            "read_bandwidth_share": self.bandwidth_share,
        })
    }
}

/// Weight and KV bytes that one decode step at batch 1 has to read.
fn bytes_per_token(engine: &Engine, model: &Model, context: usize) -> f64 {
    let formats: Vec<WeightFormat> = model
        .spec
        .weights
        .iter()
        .map(|w| {
            let first = w.parts.first().and_then(|part| model.source.tensor(&part.source).ok());
            first.map_or_else(|| WeightFormat::dense(model.dtype), |tensor| tensor.format)
        })
        .collect();
    let cost = model.spec.programs[0].cost(&Counts::decode(1, context), &engine.info().limits, &formats);
    cost.weight_bytes + cost.kv_bytes
}
