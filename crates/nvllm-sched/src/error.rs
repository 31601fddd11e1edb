//! The crate's errors: each says what was asked, what is possible, and what to do.

use nvllm_core::StepId;

/// The result of a scheduler call.
pub type Result<T, E = SchedError> = std::result::Result<T, E>;

/// Why a sequence is not taken, or a step's output does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchedError {
    /// A configuration that can run nothing.
    #[error("scheduler configuration: `{field}` is {value}; {remedy}")]
    BadConfig {
        /// The field of [`SchedConfig`](crate::SchedConfig).
        field: &'static str,
        /// What it is.
        value: usize,
        /// What it must be.
        remedy: &'static str,
    },
    /// A sequence without tokens.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// Prompt and output do not fit into the context, or into the model's positions.
    #[error("the prompt has {prompt_len} tokens, {trouble}: {bound}; {remedy}")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_len: usize,
        /// How they are too many.
        trouble: &'static str,
        /// The limit and its number.
        bound: String,
        /// What to do.
        remedy: String,
    },
    /// Position ids that do not belong to the prompt.
    #[error("positions: {problem}")]
    BadPositions {
        /// What is wrong with them and what would be right.
        problem: String,
    },
    /// More KV blocks than there are, even with nothing else running.
    #[error(
        "a prompt of {prompt_len} tokens and up to {max_tokens} more take {needed} KV blocks of {block_len} positions; \
         the cache has {available}: generate fewer tokens, shorten the prompt, or load the model with a larger KV cache"
    )]
    NeverFits {
        /// Tokens of the prompt.
        prompt_len: usize,
        /// Tokens that may follow, after clamping to the context.
        max_tokens: usize,
        /// Blocks needed, in the KV group that lacks them.
        needed: usize,
        /// Blocks of that group, the null block not counted.
        available: usize,
        /// KV positions in one block.
        block_len: usize,
    },
    /// More choices than can run at once, or none.
    #[error("n is {n}; give 1 to {slots}, the sequences that run at once")]
    BadChoices {
        /// Choices asked for.
        n: usize,
        /// Slots there are.
        slots: usize,
    },
    /// A tenant that the configuration does not have.
    #[error("tenant {tenant} is not known; there are {num_tenants}, counted from 0")]
    UnknownTenant {
        /// The tenant's index.
        tenant: u32,
        /// How many there are.
        num_tenants: usize,
    },
    /// A step that was never planned, or is committed already.
    #[error("step {step} is not in flight; commit each planned step once")]
    UnknownStep {
        /// The step.
        step: StepId,
    },
    /// A step committed before an earlier one.
    #[error("step {step} is committed before step {first}; commit in the order of submission")]
    OutOfOrder {
        /// The step.
        step: StepId,
        /// The oldest in flight.
        first: StepId,
    },
    /// A backend's output that is not what the step asked for. The step is still in flight.
    #[error("the output of step {step} {problem}; this is a fault in the backend")]
    BadOutput {
        /// The step.
        step: StepId,
        /// What is wrong with it.
        problem: String,
    },
    /// A broken invariant: a fault in this crate.
    #[error("scheduler invariant broken: {problem}; this is a fault in the scheduler, please report it")]
    Broken {
        /// What is wrong.
        problem: String,
    },
}

impl SchedError {
    pub(crate) fn broken(problem: impl Into<String>) -> Self {
        Self::Broken { problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_message_is_whole_and_has_no_source() {
        let step = StepId(3);
        let bound = String::from("the context is 4 tokens");
        let all = [
            SchedError::BadConfig { field: "seqs", value: 0, remedy: "give at least 1" },
            SchedError::EmptyPrompt,
            SchedError::PromptTooLong {
                prompt_len: 5,
                trouble: "too many",
                bound,
                remedy: "shorten it".into(),
            },
            SchedError::BadPositions { problem: "3 are given".into() },
            SchedError::NeverFits { prompt_len: 5, max_tokens: 2, needed: 3, available: 1, block_len: 2 },
            SchedError::BadChoices { n: 0, slots: 4 },
            SchedError::UnknownTenant { tenant: 1, num_tenants: 1 },
            SchedError::UnknownStep { step },
            SchedError::OutOfOrder { step, first: StepId(2) },
            SchedError::BadOutput { step, problem: "has no tokens".into() },
            SchedError::broken("block 1 leaked"),
        ];
        // A new variant does not compile until it is counted here.
        let number = |error: &SchedError| match error {
            SchedError::BadConfig { .. } => 0,
            SchedError::EmptyPrompt => 1,
            SchedError::PromptTooLong { .. } => 2,
            SchedError::BadPositions { .. } => 3,
            SchedError::NeverFits { .. } => 4,
            SchedError::BadChoices { .. } => 5,
            SchedError::UnknownTenant { .. } => 6,
            SchedError::UnknownStep { .. } => 7,
            SchedError::OutOfOrder { .. } => 8,
            SchedError::BadOutput { .. } => 9,
            SchedError::Broken { .. } => 10,
        };
        assert!(all.iter().map(number).eq(0..11));
        for error in all {
            assert!(error.source().is_none(), "{error}");
        }
    }
}
