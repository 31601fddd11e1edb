//! Counts for metrics: a snapshot that the engine's threads publish, read without waiting for them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nvllm_core::{ExactHeadCounts, StepSpan};
use nvllm_sched::{FinishReason, Stats};

/// What an engine has done and is doing, as of its last step. Counts of tokens, steps and requests
/// only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Requests that were taken and have no slot yet.
    pub num_waiting: usize,
    /// Tokens of their prompts.
    pub num_waiting_tokens: usize,
    /// Choices of requests with a slot.
    pub num_running: usize,
    /// Steps planned and not yet committed.
    pub num_in_flight: usize,
    /// KV blocks in use, over all KV groups; those of a request that has ended too, until no step
    /// in flight uses them.
    pub used_blocks: usize,
    /// KV blocks that requests can use.
    pub total_blocks: usize,
    /// Steps run.
    pub num_steps: u64,
    /// Prompt tokens computed, again after a preemption.
    pub num_prompt_tokens: u64,
    /// Tokens sampled. A few more than clients saw, where a stop string or an abort was noticed a
    /// step late.
    pub num_output_tokens: u64,
    /// Prompt tokens of the choices that were admitted.
    pub num_queried_tokens: u64,
    /// Those of them whose keys and values were in the KV cache already.
    pub num_cached_tokens: u64,
    /// Choices that were preempted, to be computed again later.
    pub num_preemptions: u64,
    /// How long the device has worked on steps, as far as the backend can tell.
    pub device_busy: Duration,
    /// How long it has waited for the host between two steps while there was work.
    pub device_waited: Duration,
    /// What came of [`LoadOptions::exact_head`](crate::LoadOptions::exact_head).
    pub exact_head: ExactHeadCounts,
    /// Choices that have ended.
    pub finished: FinishCounts,
}

impl EngineStats {
    /// The share of the time with work in which the device waited for the host; none before the
    /// first steps, or if the backend does not tell.
    pub fn device_wait_share(&self) -> Option<f64> {
        let (busy, waited) = (self.device_busy.as_secs_f64(), self.device_waited.as_secs_f64());
        (busy > 0.0).then(|| waited / (busy + waited))
    }
}

/// Choices of requests that have ended, by what their clients were told; a client that was gone
/// counts as aborted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FinishCounts {
    /// At a stop token.
    pub stop_token: u64,
    /// At a stop string.
    pub stop_string: u64,
    /// At `max_tokens`, or at the end of the context.
    pub length: u64,
    /// Aborted.
    pub aborted: u64,
    /// At their deadline.
    pub deadline: u64,
    /// With an error.
    pub failed: u64,
}

impl FinishCounts {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.stop_token + self.stop_string + self.length + self.aborted + self.deadline + self.failed
    }

    const fn of(&mut self, reason: FinishReason) -> &mut u64 {
        match reason {
            FinishReason::StopToken(_) | FinishReason::Complete => &mut self.stop_token,
            FinishReason::StopString => &mut self.stop_string,
            FinishReason::Length => &mut self.length,
            FinishReason::Aborted => &mut self.aborted,
            FinishReason::Deadline => &mut self.deadline,
            FinishReason::Failed | FinishReason::Barred | FinishReason::Unusable => &mut self.failed,
        }
    }
}

/// The snapshot. Each part has one writer: the device thread the scheduler's counts, the text
/// thread the ends.
#[derive(Debug, Default)]
pub(crate) struct Published(Mutex<Snapshot>);

#[derive(Clone, Copy, Debug, Default)]
struct Snapshot {
    sched: Stats,
    device: DeviceTime,
    exact_head: ExactHeadCounts,
    finished: FinishCounts,
}

impl Published {
    pub(crate) fn publish(&self, sched: Stats, device: DeviceTime, exact_head: ExactHeadCounts) {
        let mut snapshot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (snapshot.sched, snapshot.device, snapshot.exact_head) = (sched, device, exact_head);
    }

    pub(crate) fn count_end(&self, reason: FinishReason) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).finished.of(reason) += 1;
    }

    /// The snapshot, beside `waiting` requests and tokens of their prompts.
    pub(crate) fn read(&self, (num_waiting, num_waiting_tokens): (usize, usize)) -> EngineStats {
        let Snapshot { sched: stats, device, exact_head, finished } =
            *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        EngineStats {
            num_waiting,
            num_waiting_tokens,
            num_running: stats.num_running,
            num_in_flight: stats.num_in_flight,
            used_blocks: stats.used_blocks,
            total_blocks: stats.total_blocks,
            num_steps: stats.totals.num_steps,
            num_prompt_tokens: stats.totals.num_prompt_tokens,
            num_output_tokens: stats.totals.num_output_tokens,
            num_queried_tokens: stats.totals.num_queried_tokens,
            num_cached_tokens: stats.totals.num_cached_tokens,
            num_preemptions: stats.totals.num_preemptions,
            device_busy: device.busy,
            device_waited: device.waited,
            exact_head,
            finished,
        }
    }
}

/// What the device did with its time, from the spans of its steps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DeviceTime {
    busy: Duration,
    waited: Duration,
    /// When the last step ended, if there has been work since.
    last_ended: Option<Duration>,
}

impl DeviceTime {
    /// Counts the next step.
    pub(crate) fn count(&mut self, span: Option<StepSpan>) {
        let Some(StepSpan { began, ended }) = span else { return };
        self.busy += ended.saturating_sub(began);
        self.waited += self.last_ended.map_or(Duration::ZERO, |last| began.saturating_sub(last));
        self.last_ended = Some(ended);
    }

    /// There is no work until the next step.
    pub(crate) fn pause(&mut self) {
        self.last_ended = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_waits_between_steps_and_not_between_requests() {
        let span = |began, ended| {
            Some(StepSpan { began: Duration::from_millis(began), ended: Duration::from_millis(ended) })
        };
        let mut time = DeviceTime::default();
        time.count(span(100, 110));
        time.count(span(112, 120));
        time.count(None);
        time.pause();
        time.count(span(500, 520));
        assert_eq!((time.busy, time.waited), (Duration::from_millis(38), Duration::from_millis(2)));
        let published = Published::default();
        assert_eq!(published.read((0, 0)).device_wait_share(), None);
        published.publish(Stats::default(), time, ExactHeadCounts::default());
        assert_eq!(published.read((0, 0)).device_wait_share(), Some(0.05));
    }
}
