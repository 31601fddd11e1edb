//! What the events of a request tell: how long it took, and how large it was.
//!
//! Times are the engine's own, so that a client that reads slowly changes none. Choices count one
//! by one, as with vLLM; one that failed or was aborted has no times, as they say nothing of the
//! server's speed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nvllm_engine::{Event, FinishReason, Finished};
use prometheus::{Histogram, Registry};

use super::labels::Labels;

/// Bounds in seconds, as vLLM has them.
const FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const PER_TOKEN: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const REQUEST: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
/// Bounds of `n`, as vLLM has them.
const CHOICES: [f64; 5] = [1.0, 2.0, 5.0, 10.0, 20.0];

struct Histograms {
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    time_per_output_token: Histogram,
    e2e_latency: Histogram,
    queue_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    inference_time: Histogram,
    prompt_tokens: Histogram,
    generation_tokens: Histogram,
    prefill_kv_computed_tokens: Histogram,
    /// The longest answer of a prompt.
    max_num_generation_tokens: Histogram,
    params_n: Histogram,
    params_max_tokens: Histogram,
}

impl Histograms {
    fn new(registry: &Registry, labels: &Labels, max_tokens: usize) -> Self {
        let make =
            |name: &str, help: &str, bounds: &[f64]| labels.histogram(registry, name, help, bounds.to_vec());
        let tokens = token_bounds(max_tokens);
        Self {
            time_to_first_token: make(
                "time_to_first_token_seconds",
                "From submission to the first token.",
                &FIRST_TOKEN,
            ),
            inter_token_latency: make(
                "inter_token_latency_seconds",
                "From a token to the next of its choice.",
                &PER_TOKEN,
            ),
            time_per_output_token: make(
                "request_time_per_output_token_seconds",
                "Mean time from a token to the next, for choices of two tokens or more.",
                &PER_TOKEN,
            ),
            e2e_latency: make("e2e_request_latency_seconds", "From submission to the last token.", &REQUEST),
            queue_time: make("request_queue_time_seconds", "From submission to admission.", &REQUEST),
            prefill_time: make(
                "request_prefill_time_seconds",
                "From admission to the first token.",
                &REQUEST,
            ),
            decode_time: make("request_decode_time_seconds", "From the first token to the last.", &REQUEST),
            inference_time: make(
                "request_inference_time_seconds",
                "From admission to the last token.",
                &REQUEST,
            ),
            prompt_tokens: make("request_prompt_tokens", "Tokens of the prompt.", &tokens),
            generation_tokens: make("request_generation_tokens", "Tokens of the answer.", &tokens),
            prefill_kv_computed_tokens: make(
                "request_prefill_kv_computed_tokens",
                "Tokens of the prompt that the cache did not have.",
                &tokens,
            ),
            max_num_generation_tokens: make(
                "request_max_num_generation_tokens",
                "Tokens of the longest answer to a prompt.",
                &tokens,
            ),
            params_n: make("request_params_n", "Answers that a request asked for.", &CHOICES),
            params_max_tokens: make(
                "request_params_max_tokens",
                "Most tokens of an answer, of requests that said so.",
                &tokens,
            ),
        }
    }
}

/// 1, 2, 5, 10, .. up to `most`.
fn token_bounds(most: usize) -> Vec<f64> {
    let decades = (0..).map_while(|exponent| 10_usize.checked_pow(exponent));
    let bounds = decades.flat_map(|decade| [1, 2, 5].map(|digit| decade.checked_mul(digit)));
    let bounds = bounds.map_while(|bound| bound);
    bounds.take_while(|bound| *bound <= most.max(1)).map(|bound| bound as f64).collect()
}

/// What is counted of all submissions.
pub(super) struct Submissions {
    histograms: Histograms,
    /// Those that have not ended.
    open: AtomicUsize,
}

impl Submissions {
    /// For sequences of at most `max_tokens` tokens.
    pub(super) fn new(registry: &Registry, labels: &Labels, max_tokens: usize) -> Self {
        Self { histograms: Histograms::new(registry, labels, max_tokens), open: AtomicUsize::new(0) }
    }

    /// Submissions that have not ended.
    pub(super) fn num_open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// The answers to a prompt that have ended.
#[derive(Clone, Copy, Default)]
struct Answers {
    num_ended: usize,
    /// Tokens of the longest.
    most_tokens: usize,
}

/// Sees the events of one submission. While it lives, the submission counts as open.
pub(crate) struct Observer {
    submissions: Arc<Submissions>,
    submitted: Instant,
    /// When the last token of each choice came.
    last: Vec<Option<Instant>>,
    /// Of each prompt.
    answers: Vec<Answers>,
    /// Choices of each prompt.
    n: usize,
}

impl Observer {
    /// For requests of `n` choices each, which are about to be submitted.
    pub(super) fn new(submissions: &Arc<Submissions>, num_requests: usize, n: usize) -> Self {
        submissions.open.fetch_add(1, Ordering::Relaxed);
        Self {
            submissions: Arc::clone(submissions),
            submitted: Instant::now(),
            last: vec![None; num_requests.saturating_mul(n)],
            answers: vec![Answers::default(); num_requests],
            n: n.max(1),
        }
    }

    /// A request was taken.
    pub(crate) fn taken(&self, max_tokens: Option<usize>) {
        let histograms = &self.submissions.histograms;
        histograms.params_n.observe(self.n as f64);
        if let Some(max_tokens) = max_tokens {
            histograms.params_max_tokens.observe(max_tokens as f64);
        }
    }

    /// `event` of `choice`, counted over all prompts.
    pub(crate) fn see(&mut self, choice: usize, event: &Event) {
        match event {
            Event::PromptRow { .. } | Event::Embedding { .. } => {}
            Event::Token { at, .. } => {
                let Some(last) = self.last.get_mut(choice) else { return };
                let histograms = &self.submissions.histograms;
                match last.replace(*at) {
                    // The first token is seen here and not at the end, so that the figure is fresh.
                    None => {
                        observe(
                            &histograms.time_to_first_token,
                            at.saturating_duration_since(self.submitted),
                        );
                    }
                    Some(last) => {
                        observe(&histograms.inter_token_latency, at.saturating_duration_since(last));
                    }
                }
            }
            Event::Finished(finished) => self.finished(choice, finished),
        }
    }

    fn finished(&mut self, choice: usize, finished: &Finished) {
        let histograms = &self.submissions.histograms;
        if let Some(answers) = self.answers.get_mut(choice / self.n) {
            answers.num_ended += 1;
            answers.most_tokens = answers.most_tokens.max(finished.output_tokens);
            if answers.num_ended == self.n {
                histograms.max_num_generation_tokens.observe(answers.most_tokens as f64);
            }
        }
        let failed = matches!(
            finished.reason,
            FinishReason::Aborted | FinishReason::Barred | FinishReason::Failed | FinishReason::Unusable
        );
        if failed {
            return;
        }
        histograms.prompt_tokens.observe(finished.prompt_tokens as f64);
        histograms.generation_tokens.observe(finished.output_tokens as f64);
        let computed = finished.prompt_tokens.saturating_sub(finished.cached_tokens);
        histograms.prefill_kv_computed_tokens.observe(computed as f64);
        let Some(queued) = finished.queue_time else { return };
        observe(&histograms.queue_time, queued);
        let Some(first) = finished.time_to_first_token else { return };
        let (prefill, decode) = (first.saturating_sub(queued), finished.decode_time);
        observe(&histograms.prefill_time, prefill);
        observe(&histograms.decode_time, decode);
        observe(&histograms.inference_time, prefill + decode);
        observe(&histograms.e2e_latency, first + decode);
        if let Some(intervals) = finished.output_tokens.checked_sub(1).filter(|intervals| *intervals > 0) {
            let mean = decode.as_secs_f64() / intervals as f64;
            histograms.time_per_output_token.observe(mean);
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.submissions.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn observe(histogram: &Histogram, time: Duration) {
    histogram.observe(time.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_tokens_grow_in_threes_up_to_the_most() {
        assert_eq!(token_bounds(60), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(token_bounds(0), [1.0]);
        assert!(token_bounds(usize::MAX).is_sorted_by(|bound, next| bound < next));
    }
}
