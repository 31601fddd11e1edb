//! The registry of workloads: one file each, named and defined as the field names them.

mod accuracy;
mod busy;
mod decode;
mod inputs;
mod memory;
mod nano;
mod ops;
mod prefill;
mod prefix;
mod sched;
mod startup;
mod structured;
mod verify;

pub(crate) use nano::SetTimes;

use crate::record::{OURS, Record, names};
use crate::{Bench, BenchError, Result, table};

/// Something to be measured.
pub trait Workload: Sync {
    /// Its name on the command line and in records.
    fn name(&self) -> &'static str;
    /// Its place in the suite (`S0`).
    fn code(&self) -> &'static str;
    /// What is run and what is timed, in a sentence.
    fn definition(&self) -> &'static str;
    /// Measures, and hands the records to `bench`. What does not fit the machine or the time is
    /// skipped there, with its reason.
    fn run(&self, bench: &mut Bench) -> Result<()>;
    /// What a table shows of a record.
    fn figures(&self, record: &Record) -> Figures;
}

/// What a table shows of a record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// The median, in words and with its unit.
    pub headline: String,
    /// Tokens a second, by which engines compare.
    pub rate: Option<f64>,
    /// The limit and the share of it, in words.
    pub limit: String,
}

/// Every workload, in the order in which they run: the first two look at a process that has nothing
/// loaded yet.
pub static REGISTRY: [&dyn Workload; 13] = [
    &startup::Startup,
    &memory::Memory,
    &accuracy::Accuracy,
    &verify::Verify,
    &decode::Decode,
    &prefill::Prefill,
    &ops::Ops,
    &inputs::Inputs,
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

/// A share of the read bandwidth that memory alone cannot give, whatever else ran beside either
/// measurement.
const CACHED: f64 = 1.25;

/// The roofline's share in words, with the limit that binds; arithmetic alone where no limit was
/// measured.
fn limit(record: &Record) -> String {
    let beside = if record.engine.name == OURS { "beside it" } else { "by our kernels beside it" };
    match (record.share(), record.median(names::READ_BANDWIDTH), record.median(names::MATMUL_RATE)) {
        (Some(share), _, Some(rate)) if record.is_memory_bound() == Some(false) => {
            format!("{:.1} % of {:.0} GFLOP/s {beside}", 100.0 * share, rate / 1e9)
        }
        // No memory gives so much more than was read beside it.
        (Some(share), Some(read), _) if share > CACHED => {
            format!("{share:.1} times the {:.1} GB/s that memory gives: it reads from caches", read / 1e9)
        }
        (Some(share), Some(read), _) => {
            format!("{:.1} % of {:.1} GB/s read beside it", 100.0 * share, read / 1e9)
        }
        _ => match (record.cost, record.median(names::STEP_SECONDS)) {
            (Some(cost), Some(seconds)) => format!("{:.0} GFLOP/s", cost.flops / seconds / 1e9),
            _ => "-".into(),
        },
    }
}

/// The median of a series of seconds, as people read it.
fn median_of(record: &Record, name: &str) -> String {
    record.median(name).map_or_else(|| "-".into(), table::duration)
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

    #[test]
    fn the_limit_that_binds_is_named() {
        let mut record = sample();
        assert!(limit(&record).contains("GB/s"));
        record.cost.as_mut().unwrap().flops = 500.0;
        assert!(limit(&record).contains("GFLOP/s beside it"), "{}", limit(&record));
        record.cost.as_mut().unwrap().flops = 0.0;
        record.cost.as_mut().unwrap().bytes *= 2.0;
        assert!(
            limit(&record).contains("1.8 times the ") && !limit(&record).contains('%'),
            "{}",
            limit(&record)
        );
        record.cost.as_mut().unwrap().flops = 500.0;
        record.series.remove(names::MATMUL_RATE);
        assert!(!limit(&record).contains('%'), "{}", limit(&record));
    }
}
