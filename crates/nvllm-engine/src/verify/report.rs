//! What a verification found, and how people read it.

use std::fmt;

use serde::Serialize;

use super::compare::Difference;

/// One variation, compared with the baseline.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was varied.
    pub varied: String,
    /// Requests that were compared, each choice counted.
    pub requests: usize,
    /// Tokens that were compared with their log-probabilities, of prompts too where those were
    /// asked for.
    pub tokens: usize,
    /// What came of it.
    pub outcome: Outcome,
    /// What shows that the variation happened; empty if nothing does.
    pub evidence: String,
    /// How long it took, without loading.
    pub seconds: f64,
}

/// What came of a variation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum Outcome {
    /// Every bit is the baseline's.
    Equal,
    /// The first difference.
    Differs(Difference),
    /// Nothing differs, but what was to be varied did not happen.
    Unproven {
        /// What did not.
        reason: String,
    },
    /// It could not run.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What a verification found.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// The model's name.
    pub model: String,
    /// The backend's name.
    pub backend: String,
    /// The device, in words.
    pub device: String,
    /// Requests in the set.
    pub requests: usize,
    /// Tokens that the baseline compares with.
    pub tokens: usize,
    /// Tokens of one sequence: prompt and output together, at most.
    pub context: usize,
    /// What the requests were drawn from.
    pub seed: u64,
    /// The variations.
    pub rows: Vec<Row>,
}

impl VerifyReport {
    /// Whether every variation happened and changed nothing.
    pub fn is_equal(&self) -> bool {
        self.rows.iter().all(|row| row.outcome == Outcome::Equal)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal => f.write_str("equal"),
            Self::Differs(_) => f.write_str("DIFFERS"),
            Self::Unproven { .. } => f.write_str("NOT SHOWN"),
            Self::Failed { .. } => f.write_str("FAILED"),
        }
    }
}

impl fmt::Display for VerifyReport {
    /// A table without times: what was varied, how much was compared, what came of it. A difference
    /// has a line of its own below its row.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.varied.len()).max().unwrap_or(0).max("varied".len());
        writeln!(f, "{:width$}  requests   tokens  result", "varied")?;
        for row in &self.rows {
            let line = format!(
                "{:width$}  {:8}  {:7}  {:9}  {}",
                row.varied,
                row.requests,
                row.tokens,
                row.outcome.to_string(),
                row.evidence
            );
            writeln!(f, "{}", line.trim_end())?;
            match &row.outcome {
                Outcome::Equal => {}
                Outcome::Differs(difference) => writeln!(f, "    {difference}")?,
                Outcome::Unproven { reason } | Outcome::Failed { reason } => writeln!(f, "    {reason}")?,
            }
        }
        Ok(())
    }
}
