//! What the scheduler may hand out.

use nvllm_core::Limits;

use crate::{Result, SchedError};

/// Budgets of a step and sizes of what sequences hold. Equal to what the model was loaded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedConfig {
    /// New tokens in one step, over all sequences.
    pub step_tokens: usize,
    /// Output rows of one step.
    pub step_outputs: usize,
    /// Slots: sequences that run at once.
    pub seqs: usize,
    /// Tokens of one sequence, prompt and output together.
    pub context: usize,
    /// Position ids that the model has, counted from 0.
    pub max_positions: usize,
    /// KV positions in one block.
    pub block_len: usize,
    /// Physical blocks of each KV group, the null block included. The backend's geometry knows the
    /// number.
    pub num_blocks: Vec<usize>,
    /// Steps planned and not yet committed.
    pub max_in_flight: usize,
}

impl SchedConfig {
    /// The configuration for a model loaded under `limits`, with `num_blocks` blocks in each of its
    /// KV groups (the null block included) and `max_positions` position ids.
    pub fn new(limits: &Limits, num_blocks: Vec<usize>, max_positions: usize) -> Self {
        Self {
            step_tokens: limits.step_tokens,
            step_outputs: limits.step_outputs,
            seqs: limits.seqs,
            context: limits.context,
            max_positions,
            block_len: limits.block_len,
            num_blocks,
            max_in_flight: limits.max_in_flight,
        }
    }

    /// Rejects what can run nothing: zero extents, a cache of the null block alone, numbers that
    /// ids cannot hold.
    pub fn check(&self) -> Result<()> {
        let nonzero = [
            ("step_tokens", self.step_tokens),
            ("step_outputs", self.step_outputs),
            ("seqs", self.seqs),
            ("context", self.context),
            ("max_positions", self.max_positions),
            ("block_len", self.block_len),
            ("max_in_flight", self.max_in_flight),
        ];
        let ids = [("seqs", self.seqs), ("max_positions", self.max_positions)];
        let bad = |field, value, remedy| Err(SchedError::BadConfig { field, value, remedy });
        if let Some(&(field, value)) = nonzero.iter().find(|(_, value)| *value == 0) {
            return bad(field, value, "give at least 1");
        }
        if let Some(&value) = self.num_blocks.iter().find(|n| **n < 2) {
            return bad("num_blocks", value, "give at least 2: the null block and one to use");
        }
        let too_big = |value: usize| u32::try_from(value).is_err();
        if let Some(&(field, value)) = ids.iter().find(|(_, value)| too_big(*value)) {
            return bad(field, value, "ids have 32 bits");
        }
        match self.num_blocks.iter().find(|n| too_big(**n)) {
            Some(&value) => bad("num_blocks", value, "ids have 32 bits"),
            None => Ok(()),
        }
    }

    /// KV blocks that hold `len` positions.
    pub(crate) const fn blocks_for(&self, len: usize) -> usize {
        len.div_ceil(self.block_len)
    }

    /// KV positions that one sequence can have with the cache to itself; `None` if the model has no
    /// KV cache.
    pub(crate) fn cache_positions(&self) -> Option<usize> {
        self.num_blocks.iter().map(|n| (n - 1).saturating_mul(self.block_len)).min()
    }
}
