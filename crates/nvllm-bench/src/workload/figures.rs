//! What a table shows of a record.

use crate::record::{OURS, Record, names};
use crate::units;

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

/// A share of the read bandwidth that memory alone cannot give, whatever else ran beside either
/// measurement.
const CACHED: f64 = 1.25;

/// The roofline's share in words, with the limit that binds; arithmetic alone where no limit was
/// measured.
pub(super) fn limit(record: &Record) -> String {
    let beside = if record.engine.name == OURS { "beside it" } else { "by our kernels beside it" };
    match (record.share(), record.median(names::READ_BANDWIDTH), record.median(names::MATMUL_RATE)) {
        (Some(share), _, Some(rate)) if record.is_memory_bound() == Some(false) => {
            format!("{:.1} % of {:.0} GFLOP/s {beside}{}", 100.0 * share, rate / 1e9, mark(share))
        }
        // No memory gives so much more than was read beside it.
        (Some(share), Some(read), _) if share > CACHED => {
            format!("{share:.1} times the {:.1} GB/s that memory gives: it reads from caches", read / 1e9)
        }
        (Some(share), Some(read), _) => {
            format!("{:.1} % of {:.1} GB/s read beside it{}", 100.0 * share, read / 1e9, mark(share))
        }
        _ => match (record.cost, record.median(names::STEP_SECONDS)) {
            (Some(cost), Some(seconds)) => format!("{:.0} GFLOP/s", cost.flops / seconds / 1e9),
            _ => "-".into(),
        },
    }
}

/// What stands behind a share above the limit.
pub(crate) const ABOVE: &str = " (!)";

fn mark(share: f64) -> &'static str {
    if share > 1.0 { ABOVE } else { "" }
}

/// The median of a series of seconds, as people read it.
pub(super) fn median_of(record: &Record, name: &str) -> String {
    record.median(name).map_or_else(|| "-".into(), units::duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::sample;

    #[test]
    fn the_limit_that_binds_is_named() {
        let mut record = sample();
        assert!(limit(&record).contains("GB/s"));
        record.cost.as_mut().unwrap().flops = 500.0;
        assert!(limit(&record).contains("GFLOP/s beside it"), "{}", limit(&record));
        record.cost.as_mut().unwrap().flops = 0.0;
        record.cost.as_mut().unwrap().bytes *= 1.2;
        assert!(
            limit(&record).contains("108.0 % of") && limit(&record).ends_with(" (!)"),
            "{}",
            limit(&record)
        );
        record.cost.as_mut().unwrap().bytes *= 2.0 / 1.2;
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
