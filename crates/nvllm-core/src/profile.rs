//! Where the time of a step went, op by op: what an [`Executable`](crate::Executable) hands out when it is asked to time them.

use crate::{EntryId, Op, Program, StepId};

/// One op of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpTime {
    /// Index of its node in the [program that ran](crate::Executable::program); `None` for a sampler that runs apart from the pass.
    pub node: Option<usize>,
    /// Seconds from the submission of the step to the start of the op.
    pub start: f64,
    /// Seconds that it took.
    pub seconds: f64,
}

impl OpTime {
    /// Index in `program` of the node that was timed, the sampler's among them.
    pub fn index_in(&self, program: &Program) -> Option<usize> {
        self.node.or_else(|| program.nodes.iter().position(|node| node.op == Op::Sample))
    }
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
