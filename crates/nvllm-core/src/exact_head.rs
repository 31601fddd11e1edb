//! What an exact head has cost.

/// Rows of logits of which only the largest mattered, under
/// [`Limits::exact_head`](crate::Limits::exact_head); the counts only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactHeadCounts {
    /// Rows whose largest logit was found among candidates.
    pub rows: u64,
    /// Logits that were computed again for that, over all these rows.
    pub candidates: u64,
    /// Rows for which the whole head was multiplied: too many candidates, or no bound holds.
    pub dense_rows: u64,
}

impl std::ops::AddAssign for ExactHeadCounts {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.candidates += other.candidates;
        self.dense_rows += other.dense_rows;
    }
}
