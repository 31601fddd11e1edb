//! The limits of the hardware, measured beside what they bound.

use crate::record::{Cost, Series, names};
use crate::stats;

/// The limits of the hardware, measured now by the measured backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roof {
    /// Bytes a second.
    pub read: f64,
    /// Operations a second.
    pub matmul: f64,
}

impl Roof {
    /// Seconds that `cost` takes at least.
    pub(crate) fn seconds(self, cost: Cost) -> f64 {
        (cost.bytes / self.read).max(cost.flops / self.matmul)
    }
}

/// The median share of the limit of units that take `cost`, their `seconds` in as many groups as
/// there are `roofs`, each beside one.
pub(crate) fn share(cost: Cost, seconds: &[f64], roofs: &[Roof]) -> Option<f64> {
    if seconds.is_empty() || roofs.is_empty() {
        return None;
    }
    let groups = seconds.chunks(seconds.len().div_ceil(roofs.len())).zip(roofs);
    let shares = groups.map(|(group, roof)| roof.seconds(cost) / stats::median(group.iter().copied()));
    Some(stats::median(shares))
}

/// Of each pair the higher limits.
///
/// A limit that is exceeded was measured too low: something else ran beside it.
pub(crate) fn higher(roofs: &mut [Roof], again: &[Roof]) {
    for (roof, again) in roofs.iter_mut().zip(again) {
        roof.read = roof.read.max(again.read);
        roof.matmul = roof.matmul.max(again.matmul);
    }
}

/// Measurements of the roof beside each group, as series; none of what the backend cannot tell.
pub(crate) fn roof_series(roofs: &[Roof]) -> Vec<(&'static str, Series)> {
    let all = |values: Vec<f64>| values.iter().all(|x| x.is_finite()).then(|| Series::whole(values));
    let read =
        all(roofs.iter().map(|roof| roof.read).collect()).map(|series| (names::READ_BANDWIDTH, series));
    let rate = all(roofs.iter().map(|roof| roof.matmul).collect()).map(|series| (names::MATMUL_RATE, series));
    read.into_iter().chain(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roof_is_the_slower_of_the_two() {
        let roof = Roof { read: 10.0, matmul: 100.0 };
        assert!(roof.seconds(Cost { bytes: 20.0, flops: 100.0 }) == 2.0);
        assert!(roof.seconds(Cost { bytes: 20.0, flops: 300.0 }) == 3.0);
        assert_eq!(
            roof_series(&[Roof { read: f64::INFINITY, matmul: 2.0 }]),
            [(names::MATMUL_RATE, Series::whole([2.0]))]
        );
    }

    #[test]
    fn shares_are_of_the_limit_beside_each_group() {
        let roofs = [10.0, 20.0].map(|read| Roof { read, matmul: f64::INFINITY });
        let cost = Cost { bytes: 20.0, flops: 1.0 };
        assert_eq!(share(cost, &[4.0, 4.0, 1.0, 1.0], &roofs), Some(0.75));
        assert_eq!(share(cost, &[], &roofs), None);
    }

    #[test]
    fn a_limit_only_rises() {
        let mut roofs = [Roof { read: 1.0, matmul: 9.0 }, Roof { read: 2.0, matmul: 8.0 }];
        higher(&mut roofs, &[Roof { read: 3.0, matmul: 7.0 }; 2]);
        assert_eq!(roofs.map(|roof| (roof.read, roof.matmul)), [(3.0, 9.0), (3.0, 8.0)]);
    }
}
