//! The report as people read it.

use std::fmt;

use super::{Outcome, VerifyReport};

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
