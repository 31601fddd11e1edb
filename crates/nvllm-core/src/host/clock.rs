//! The clock that times ops when a step is profiled, and does nothing when it is not.

use std::time::Instant;

use crate::profile::OpTime;

/// Times each op from the end of the one before it.
#[derive(Default)]
pub(super) struct OpClock {
    running: Option<Running>,
}

struct Running {
    begun: Instant,
    last: Instant,
    ops: Vec<OpTime>,
}

impl OpClock {
    /// Starts at the submission of a step.
    pub(super) fn begin(&mut self) {
        let now = Instant::now();
        self.running = Some(Running { begun: now, last: now, ops: Vec::new() });
    }

    /// Ends the setting-up before the first op: it belongs to none.
    pub(super) fn ready(&mut self) {
        if let Some(running) = &mut self.running {
            running.last = Instant::now();
        }
    }

    /// Ends an op: that of node `node` in the lowered program, or the sampler.
    pub(super) fn lap(&mut self, node: Option<usize>) {
        if let Some(Running { begun, last, ops }) = &mut self.running {
            let now = Instant::now();
            let (start, seconds) = (last.duration_since(*begun), now.duration_since(*last));
            let nodes = node.map(|node| node..node + 1);
            ops.push(OpTime { nodes, start: start.as_secs_f64(), seconds: seconds.as_secs_f64() });
            *last = now;
        }
    }

    /// Stops, and gives what was timed; `None` if it was not running.
    pub(super) fn end(&mut self) -> Option<Vec<OpTime>> {
        self.running.take().map(|running| running.ops)
    }
}
