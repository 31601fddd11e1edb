//! When the device worked on each step, by the events around it.
//!
//! The driver gives the time between two events in milliseconds as f32: from one event for all
//! steps, microseconds would be lost within a minute. So each step is measured from the end of the
//! one before it, which the clock keeps.

use std::time::Duration;

use cudarc::driver::{CudaEvent, sys};
use nvllm_core::StepSpan;

use crate::device::{Device, seconds_between};
use crate::error::{Doing, Result};

/// Events of this kind can be timed.
pub(crate) const TIMED: Option<sys::CUevent_flags> = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);

pub(crate) struct StepClock {
    /// The end of the last step that was collected, or loading.
    last: CudaEvent,
    at: Duration,
}

impl StepClock {
    /// A clock that starts now; none if the driver does not time.
    pub(crate) fn new(device: &Device) -> Result<Option<Self>> {
        if device.check_timing().is_err() {
            return Ok(None);
        }
        let last = device.stream.record_event(TIMED).doing("recording an event")?;
        Ok(Some(Self { last, at: Duration::ZERO }))
    }

    /// The span of the next step, which has been waited for. Its last event is exchanged for one
    /// that is free.
    pub(crate) fn span(&mut self, began: &CudaEvent, computed: &mut CudaEvent) -> Result<StepSpan> {
        let between = |from, to| Ok(Duration::from_secs_f64(seconds_between(from, to)?.max(0.0)));
        let began_at = self.at + between(&self.last, began)?;
        let ended = began_at + between(began, computed)?;
        std::mem::swap(&mut self.last, computed);
        self.at = ended;
        Ok(StepSpan { began: began_at, ended })
    }
}
