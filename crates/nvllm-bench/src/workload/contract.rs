//! What a workload is.

use super::figures::Figures;
use crate::Result;
use crate::context::Context;
use crate::record::Record;

/// Something to be measured.
pub trait Workload: Sync {
    /// Its name on the command line and in records.
    fn name(&self) -> &'static str;
    /// Its place in the suite (`S0`).
    fn code(&self) -> &'static str;
    /// What is run and what is timed, in a sentence.
    fn definition(&self) -> &'static str;
    /// Measures, and hands what came of it to `bench`. What does not fit the machine or the time is
    /// skipped there, with its reason.
    fn run(&self, bench: &mut Context) -> Result<()>;
    /// What a table shows of a record.
    fn figures(&self, record: &Record) -> Figures;
}
