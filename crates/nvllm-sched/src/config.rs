//! What the scheduler may hand out.

use nvllm_core::Limits;

use crate::{Result, SchedError};

/// The blocks of one KV group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Physical blocks, the null block included. The backend's geometry knows the number.
    pub num_blocks: usize,
    /// Keys older than this many positions are never read: their blocks are given back.
    pub window: Option<usize>,
}

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
    /// The KV groups.
    pub groups: Vec<GroupConfig>,
    /// Steps planned and not yet committed.
    pub max_in_flight: usize,
    /// Whether a prompt takes the keys and values of a prefix that the cache still holds.
    pub prefix_cache: bool,
    /// The weight of each tenant: shares of the tokens where several have sequences waiting.
    pub tenant_weights: Vec<u32>,
}

impl SchedConfig {
    /// The configuration for a model loaded under `limits`, with its KV `groups` and
    /// `max_positions` position ids: one tenant, prefixes reused.
    pub fn new(limits: &Limits, groups: Vec<GroupConfig>, max_positions: usize) -> Self {
        Self {
            step_tokens: limits.step_tokens,
            step_outputs: limits.step_outputs,
            seqs: limits.seqs,
            context: limits.context,
            max_positions,
            block_len: limits.block_len,
            groups,
            max_in_flight: limits.max_in_flight,
            prefix_cache: true,
            tenant_weights: vec![1],
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
            ("tenant_weights", self.tenant_weights.len()),
            ("tenant_weights", self.tenant_weights.iter().copied().min().unwrap_or(0) as usize),
            ("window", self.groups.iter().filter_map(|g| g.window).min().unwrap_or(1)),
        ];
        let ids =
            [("step_tokens", self.step_tokens), ("seqs", self.seqs), ("max_positions", self.max_positions)];
        let bad = |field, value, remedy| Err(SchedError::BadConfig { field, value, remedy });
        if let Some(&(field, value)) = nonzero.iter().find(|(_, value)| *value == 0) {
            return bad(field, value, "give at least 1");
        }
        let num_blocks = || self.groups.iter().map(|g| g.num_blocks);
        if let Some(value) = num_blocks().find(|n| *n < 2) {
            return bad("num_blocks", value, "give at least 2: the null block and one to use");
        }
        let too_big = |value: usize| u32::try_from(value).is_err();
        if let Some(&(field, value)) = ids.iter().find(|(_, value)| too_big(*value)) {
            return bad(field, value, "ids and counts have 32 bits");
        }
        match num_blocks().find(|n| too_big(*n)) {
            Some(value) => bad("num_blocks", value, "ids and counts have 32 bits"),
            None => Ok(()),
        }
    }

    /// Whether blocks are given back while their sequence runs.
    pub(crate) fn has_windows(&self) -> bool {
        self.groups.iter().any(|group| group.window.is_some())
    }

    /// KV blocks that hold `len` positions.
    pub(crate) const fn blocks_for(&self, len: usize) -> usize {
        len.div_ceil(self.block_len)
    }

    /// Blocks that a sequence of `len` positions must be able to hold in a group at once, to get
    /// there token by token: all, or those that a window reaches into.
    pub(crate) fn blocks_at_once(&self, group: &GroupConfig, len: usize) -> usize {
        let all = self.blocks_for(len);
        group.window.map_or(all, |window| all.min(self.blocks_for(window - 1) + 1))
    }

    /// The first of the blocks that rows from KV index `index` on see; those before it are not
    /// read any more.
    pub(crate) fn first_block_seen(&self, group: &GroupConfig, index: usize) -> usize {
        nvllm_core::state::num_unseen_blocks(group.window, self.block_len, index)
    }

    /// KV positions that one sequence can have with the cache to itself; `None` if the cache does
    /// not bound them.
    pub(crate) fn cache_positions(&self) -> Option<usize> {
        let bound = |group: &GroupConfig| {
            let available = group.num_blocks - 1;
            let bounded = self.blocks_at_once(group, usize::MAX) > available;
            bounded.then(|| available.saturating_mul(self.block_len))
        };
        self.groups.iter().filter_map(bound).min()
    }
}
