//! Where the time of a step went, op by op: what an [`Executable`](crate::Executable) hands out
//! when it is asked to time them.

use std::ops::Range;

use crate::{EntryId, StepId};

/// One op of a step, or several that ran as one.
#[derive(Clone, Debug, PartialEq)]
pub struct OpTime {
    /// Indices of its nodes in the [program that ran](crate::Executable::program); `None` for the
    /// sampler.
    pub nodes: Option<Range<usize>>,
    /// Seconds from the submission of the step to the start of the op.
    pub start: f64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// The ops of one step, in the order in which they ran.
#[derive(Clone, Debug, PartialEq)]
pub struct StepProfile {
    /// The step.
    pub step: StepId,
    /// Its entry program.
    pub entry: EntryId,
    /// Its ops.
    pub ops: Vec<OpTime>,
}
