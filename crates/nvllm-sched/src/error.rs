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
    #[error("the prompt has {prompt_len} tokens and leaves no room for {wanted}: {bound}; {remedy}")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_len: usize,
        /// What would need room.
        wanted: &'static str,
        /// The limit and its number.
        bound: String,
        /// What to do.
        remedy: &'static str,
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
         the cache has {available}: lower max_tokens, shorten the prompt, or load the model with a larger KV cache"
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
