//! A request with a longer list than the backend takes is refused alone, before it is queued.

use nvllm_core::{Executable, RequestLimits, Result, SamplingParams, Step, Ticket, TokenId};
use nvllm_engine::{FinishReason, Request};

use crate::support::{Hooks, end, options, start};

const LIMITS: RequestLimits = RequestLimits { stop_tokens: 2, logit_biases: 3 };

/// Tables of a fixed size: like a GPU, it refuses a whole step for one long list.
#[derive(Clone)]
struct Small;

impl Hooks for Small {
    fn submit(&mut self, inner: &mut dyn Executable, step: &Step) -> Result<Ticket> {
        step.resets.iter().try_for_each(|reset| LIMITS.check(&reset.sampling))?;
        inner.submit(step)
    }

    fn request_limits(&self) -> RequestLimits {
        LIMITS
    }
}

/// A request with so many stop tokens, which it cannot sample, and so many biases.
fn request(stop_tokens: u32, biases: u32) -> Request {
    let sampling = SamplingParams {
        stop_tokens: (0..stop_tokens).map(|i| TokenId(7000 + i)).collect(),
        logit_bias: (0..biases).map(|i| (TokenId(7000 + i), -100.0)).collect(),
        ..SamplingParams::default()
    };
    Request { prompt: vec![TokenId(5), TokenId(6)], sampling, max_tokens: Some(4), ..Request::default() }
}

#[test]
fn a_request_beyond_the_backends_limits_is_refused_alone() {
    let engine = start(Small, options());
    let mut streams = vec![engine.stream(request(0, 0)).unwrap()];
    for (stop_tokens, biases, words) in [
        (3, 3, ["`stop_token_ids`", "3 entries", "2 or fewer"]),
        (2, 4, ["`logit_bias`", "4 entries", "3 or fewer"]),
    ] {
        let Err(error) = engine.stream(request(stop_tokens, biases)) else { panic!("{words:?}: taken") };
        let message = error.to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    streams.push(engine.stream(request(2, 3)).unwrap());
    for stream in streams {
        let finished = end(stream);
        assert_eq!((finished.reason, finished.error), (FinishReason::Length, None));
    }
}
