//! Statistics of raw measurements.

/// The middle value; the mean of the two middle ones of an even number; NaN of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    percentile(values, 50.0)
}

/// The value below which `percent` of the values lie, interpolated linearly between neighbours; NaN
/// of none.
///
/// As NumPy's default, which vLLM's benchmark uses.
pub fn percentile(values: impl IntoIterator<Item = f64>, percent: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let at = last as f64 * (percent / 100.0).clamp(0.0, 1.0);
    let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!(median([3.0, 1.0, 2.0]) == 2.0 && median([4.0, 1.0]) == 2.5 && median([]).is_nan());
    }

    #[test]
    fn percentiles_are_those_of_numpy() {
        let values = [10.0, 20.0, 30.0, 40.0, 50.0];
        // numpy.percentile(values, [0, 25, 90, 99, 100])
        for (percent, wanted) in [(0.0, 10.0), (25.0, 20.0), (90.0, 46.0), (99.0, 49.6), (100.0, 50.0)] {
            let got = percentile(values, percent);
            assert!((got - wanted).abs() < 1e-9, "p{percent}: {got}");
        }
        assert!(percentile([7.0], 99.0) == 7.0 && percentile([], 1.0).is_nan());
    }
}
