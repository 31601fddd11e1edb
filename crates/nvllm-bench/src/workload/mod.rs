//! The registry of workloads: one file each, named and defined as the field names them.

mod accuracy;
mod busy;
mod contract;
mod decode;
pub(crate) mod figures;
mod inputs;
mod memory;
mod nano;
pub(crate) mod ops;
mod prefill;
mod prefix;
mod sampling;
mod sched;
mod startup;
mod structured;
mod verify;

pub use contract::Workload;
pub use figures::Figures;

use crate::record::Record;
use crate::{BenchError, Result};

/// Every workload, in the order in which they run: the first two look at a process that has nothing
/// loaded yet.
pub static REGISTRY: [&dyn Workload; 14] = [
    &startup::Startup,
    &memory::Memory,
    &accuracy::Accuracy,
    &verify::Verify,
    &decode::Decode,
    &prefill::Prefill,
    &ops::Ops,
    &inputs::Inputs,
    &sampling::Sampling,
    &sched::Sched,
    &prefix::Prefix,
    &structured::Structured,
    &nano::Nano,
    &busy::Busy,
];

/// The workload of this name.
pub fn find(name: &str) -> Result<&'static dyn Workload> {
    REGISTRY.into_iter().find(|workload| workload.name() == name).ok_or_else(|| {
        let known = REGISTRY.map(Workload::name).join(", ");
        BenchError::Option { option: "workload", problem: format!("`{name}` is unknown; there are {known}") }
    })
}

/// What a table shows of a record: as its workload says, or nothing for one that this version does
/// not know.
pub fn figures(record: &Record) -> Figures {
    let known = REGISTRY.iter().find(|workload| workload.name() == record.workload);
    let known = known.map(|workload| workload.figures(record));
    known.or_else(|| crate::server::figures(record)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::sample;

    #[test]
    fn names_are_found_and_others_are_refused() {
        for workload in REGISTRY {
            assert_eq!(find(workload.name()).unwrap().code(), workload.code());
            assert!(!workload.definition().is_empty());
        }
        let message = find("speed").err().unwrap().to_string();
        assert!(message.contains("speed") && message.contains("decode"), "{message}");
    }

    #[test]
    fn a_record_of_a_later_version_shows_nothing() {
        assert_eq!(figures(&Record { workload: "later".into(), ..sample() }), Figures::default());
    }
}
