//! Which of the records are shown: one model on one device, each workload by the newest run that
//! measured it.

use nvllm_core::Numerics;

use crate::record::Record;
use crate::workload::REGISTRY;

/// Records that are shown together.
#[derive(Clone, Debug)]
pub struct Section {
    /// Beginning of its charts' names: the file's stem, numbered from the second section on.
    pub name: String,
    /// In the order of the registry's workloads, then as written.
    pub records: Vec<Record>,
}

impl Section {
    /// Names of the runs that it shows, in the order of their workloads.
    pub fn runs(&self) -> Vec<&str> {
        distinct(self.records.iter().map(|record| record.run.as_str()))
    }

    /// Names of the workloads that it shows.
    pub fn workloads(&self) -> Vec<&str> {
        distinct(self.records.iter().map(|record| record.workload.as_str()))
    }

    /// Names of the engines that it shows, ours first, then in the order of the alphabet.
    pub fn engines(&self) -> Vec<&str> {
        let mut engines = distinct(self.records.iter().map(|record| record.engine.name.as_str()));
        engines.sort_by_key(|&name| (name != crate::record::OURS, name));
        engines
    }

    /// What it is about, in words: the model, the device, and the promise on sums where it is not
    /// the usual one.
    pub fn title(&self) -> String {
        let Some(first) = self.records.iter().find(|record| record.is_ours()).or(self.records.first()) else {
            return String::new();
        };
        let usual = first.numerics == Numerics::Invariant.name();
        let numerics = if usual { String::new() } else { format!(", {} numerics", first.numerics) };
        format!("{} on {}{numerics}", first.model.name, first.device.name)
    }

    /// Its records that are wanted.
    pub(super) fn select(&self, wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
        self.records.iter().filter(|record| wanted(record)).cloned().collect()
    }
}

/// The first of each, in order.
pub(super) fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

/// Whether the record is of a run with few rounds, which gives way to one that can be quoted.
pub(super) fn is_quick(record: &Record) -> bool {
    record.flags.iter().any(|flag| flag == "--quick")
}

/// What runs must share to be shown in one section. Of a run's own record: a peer's dtypes and
/// numerics are its own.
fn subject<'a>(records: &'a [Record], run: &str) -> Option<[&'a str; 4]> {
    let of_run = || records.iter().filter(|record| record.run == run);
    let record = of_run().find(|record| record.is_ours()).or(of_run().next())?;
    Some([&record.device.name, &record.model.sha256, &record.dtypes.activations, &record.numerics])
}

/// The sections of a file's records: those under the usual promise on sums first, of them those
/// with a run that can be quoted, the newest first.
pub(super) fn sections(stem: &str, records: &[Record]) -> Vec<Section> {
    // Newest first, the quick ones behind all others.
    let mut runs = distinct(records.iter().rev().map(|record| (is_quick(record), record.run.clone())));
    runs.sort_by_key(|(quick, _)| *quick);
    let mut subjects = distinct(runs.iter().filter_map(|(_, run)| subject(records, run)));
    subjects.sort_by_key(|[.., numerics]| *numerics != Numerics::Invariant.name());
    let shown = subjects.iter().map(|of| {
        let runs: Vec<&str> = runs.iter().map(|(_, run)| run.as_str()).collect();
        let runs: Vec<&str> = runs.into_iter().filter(|run| subject(records, run) == Some(*of)).collect();
        // The first run that holds the workload shows it.
        let shows = |record: &Record| {
            let holds = |run: &&&str| {
                records.iter().any(|other| other.run == **run && other.workload == record.workload)
            };
            runs.iter().find(holds).is_some_and(|run| **run == record.run)
        };
        let mut shown: Vec<Record> = records.iter().filter(|record| shows(record)).cloned().collect();
        shown.sort_by_key(|record| REGISTRY.iter().position(|workload| workload.name() == record.workload));
        shown
    });
    let named = |(at, records): (usize, Vec<Record>)| {
        let name = if at == 0 { stem.into() } else { format!("{stem}-{}", at + 1) };
        Section { name, records }
    };
    shown.enumerate().map(named).collect()
}
