//! Who may come in: the bound of the queue, draining, and how many requests have not ended.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{EngineError, LoadOptions, Result};

/// Counts of requests, changed by callers as they submit and by the engine's threads as requests
/// get slots and end.
#[derive(Debug)]
pub(crate) struct Backlog {
    max_requests: usize,
    max_tokens: usize,
    counts: Mutex<Counts>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    draining: bool,
    /// Taken, without a slot.
    waiting: usize,
    /// Tokens of their prompts.
    waiting_tokens: usize,
    /// Taken, and their client has not been told the end.
    open: usize,
}

impl Backlog {
    /// Errors if `options` bound the queue so that nothing could ever come in.
    pub(crate) fn new(options: &LoadOptions) -> Result<Self> {
        let bounds = [
            ("max-queued-requests", options.max_queued_requests),
            ("max-queued-prompt-tokens", options.max_queued_prompt_tokens),
        ];
        if let Some(&(option, _)) = bounds.iter().find(|(_, bound)| *bound == 0) {
            return Err(EngineError::Option { option, problem: "is 0; give 1 or more".into() });
        }
        let [max_requests, max_tokens] = bounds.map(|(_, bound)| bound);
        Ok(Self { max_requests, max_tokens, counts: Mutex::default(), idle: Condvar::new() })
    }

    /// Takes a request into the queue.
    ///
    /// Errors, with nothing counted, while the engine drains or if the queue is full. A prompt
    /// longer than the bound alone is taken if it is the only one that waits, so that it can run at
    /// all.
    pub(crate) fn enter(&self, prompt_len: usize) -> Result<()> {
        let mut counts = self.lock();
        if counts.draining {
            return Err(EngineError::Draining);
        }
        let tokens = counts.waiting_tokens.saturating_add(prompt_len);
        if counts.waiting >= self.max_requests || counts.waiting > 0 && tokens > self.max_tokens {
            return Err(EngineError::QueueFull {
                requests: counts.waiting,
                max_requests: self.max_requests,
                tokens: counts.waiting_tokens,
                max_tokens: self.max_tokens,
            });
        }
        counts.waiting += 1;
        counts.waiting_tokens = tokens;
        counts.open += 1;
        Ok(())
    }

    /// A request has left the queue: it has a slot, or ended before.
    pub(crate) fn leave_queue(&self, prompt_len: usize) {
        let mut counts = self.lock();
        counts.waiting = counts.waiting.saturating_sub(1);
        counts.waiting_tokens = counts.waiting_tokens.saturating_sub(prompt_len);
    }

    /// Nothing waits any more: the queue is gone with the device thread.
    pub(crate) fn clear_queue(&self) {
        let mut counts = self.lock();
        (counts.waiting, counts.waiting_tokens) = (0, 0);
    }

    /// A request's client was told the end, or is gone.
    pub(crate) fn close(&self) {
        let mut counts = self.lock();
        counts.open = counts.open.saturating_sub(1);
        if counts.open == 0 {
            self.idle.notify_all();
        }
    }

    /// Takes no requests from now on.
    pub(crate) fn drain(&self) {
        self.lock().draining = true;
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// Requests that wait for a slot, and the tokens of their prompts.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let counts = self.lock();
        (counts.waiting, counts.waiting_tokens)
    }

    /// Waits until all requests have ended, `timeout` at most; whether they have.
    pub(crate) fn wait_until_idle(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut counts = self.lock();
        while counts.open > 0 {
            let left = deadline.map_or(timeout, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            let waited = self.idle.wait_timeout(counts, left);
            counts = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // No panic can leave the counts half changed.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(max_queued_requests: usize, max_queued_prompt_tokens: usize) -> Result<Backlog> {
        Backlog::new(&LoadOptions { max_queued_requests, max_queued_prompt_tokens, ..LoadOptions::default() })
    }

    #[test]
    fn the_queue_is_bounded_in_requests_and_in_prompt_tokens() {
        let queue = backlog(3, 10).unwrap();
        let full = |error: EngineError| matches!(error, EngineError::QueueFull { .. });
        // Longer than the bound, and alone.
        queue.enter(12).unwrap();
        assert!(full(queue.enter(1).unwrap_err()));
        queue.leave_queue(12);
        queue.enter(4).unwrap();
        assert!(full(queue.enter(7).unwrap_err()));
        queue.enter(4).unwrap();
        queue.enter(2).unwrap();
        assert_eq!(queue.waiting(), (3, 10));
        let message = queue.enter(0).unwrap_err().to_string();
        assert!(
            message.contains("3 of 3 requests") && message.contains("10 of 10 prompt tokens"),
            "{message}"
        );
        queue.leave_queue(4);
        queue.enter(1).unwrap();
    }

    #[test]
    fn a_bound_of_nothing_is_refused_by_its_option() {
        for (bounds, option) in
            [((0, 1), "--max-queued-requests is 0"), ((1, 0), "--max-queued-prompt-tokens is 0")]
        {
            let message = backlog(bounds.0, bounds.1).unwrap_err().to_string();
            assert!(message.starts_with(option), "{message}");
        }
    }

    #[test]
    fn draining_takes_nothing_and_ends_when_all_have_ended() {
        let queue = backlog(3, 10).unwrap();
        queue.enter(1).unwrap();
        queue.drain();
        assert!(matches!(queue.enter(1).unwrap_err(), EngineError::Draining));
        assert!(!queue.wait_until_idle(Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.wait_until_idle(Duration::MAX));
            queue.close();
            assert!(waiter.join().unwrap());
        });
    }
}
