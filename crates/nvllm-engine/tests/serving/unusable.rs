//! Logits that are not numbers end their own request, with an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nvllm_core::{Executable, Result, RowOutput, StepOutput, Ticket};
use nvllm_engine::{FinishReason, Health, Request};

use crate::support::{self, Hooks, end, options, request};

/// Spoils the first row of the first step that is collected.
#[derive(Clone)]
struct Spoiled(Arc<AtomicBool>);

impl Hooks for Spoiled {
    fn collect(&mut self, inner: &mut dyn Executable, ticket: Ticket) -> Result<StepOutput> {
        let mut output = inner.collect(ticket)?;
        if let Some(row) = output.rows.first_mut().filter(|_| !self.0.swap(true, Ordering::Relaxed)) {
            *row = RowOutput { unusable: true, ..RowOutput::default() };
        }
        Ok(output)
    }
}

#[test]
fn logits_that_are_not_numbers_end_their_request_and_no_other() {
    let engine = support::start(Spoiled(Arc::default()), options());
    let streams: Vec<_> = (0..4).map(|i| engine.stream(request(i, 3)).unwrap()).collect();
    let ended: Vec<_> = streams.into_iter().map(end).collect();
    let failed: Vec<_> = ended.iter().filter_map(|finished| finished.error.as_deref()).collect();
    assert!(failed.len() == 1 && failed[0].contains("NaN or infinity"), "{failed:?}");
    let whole = ended.iter().filter(|f| f.reason == FinishReason::Length && f.output_tokens == 3);
    assert_eq!(whole.count(), 3);
    assert_eq!((engine.health(), engine.stats().finished.failed), (Health::Serving, 1));
}

/// The first choice reports the rows of the prompt: without it the others would have none.
#[test]
fn a_row_of_the_prompt_that_is_not_numbers_ends_all_choices_if_rows_were_asked_for() {
    for (prompt_logprobs, num_failed) in [(None, 1), (Some(0), 3)] {
        let engine = support::start(Spoiled(Arc::default()), options());
        let wanted = Request { n: Some(3), prompt_logprobs, ..request(3, 3) };
        let choices = engine.generate_choices(wanted).unwrap();
        let errors: Vec<_> = choices.iter().filter_map(|choice| choice.finished.error.as_deref()).collect();
        assert!(errors.len() == num_failed && errors[0].contains("NaN or infinity"), "{errors:?}");
        assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
        assert_eq!(engine.stats().finished.length, 3 - num_failed as u64);
    }
}
