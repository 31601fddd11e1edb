//! Numbers as people read them: `7.6 MiB`, `8.0 M`, `256 tokens`, and rates and times with their
//! units. What programs read (`--json`) stays exact.

use indicatif::HumanCount;
use unit_prefix::NumberPrefix;

/// Any unsigned integer, for the functions here.
pub(crate) trait Whole: TryInto<u64> {}

impl<N: TryInto<u64>> Whole for N {}

fn whole(n: impl Whole) -> u64 {
    n.try_into().unwrap_or(u64::MAX)
}

/// Bytes in powers of 1024: `512 bytes`, `7.6 MiB`, `23.5 GiB`.
pub(crate) fn bytes(n: impl Whole) -> String {
    let n = whole(n);
    match one_decimal(n as f64, 1024.0) {
        NumberPrefix::Standalone(_) => count(n, "byte"),
        NumberPrefix::Prefixed(prefix, amount) => format!("{amount:.1} {prefix}B"),
    }
}

/// A large number in powers of 1000, for what has no unit of its own, as parameters: `945`, `8.0
/// M`, `30.5 G`.
pub(crate) fn short(n: impl Whole) -> String {
    let n = whole(n);
    match one_decimal(n as f64, 1000.0) {
        NumberPrefix::Standalone(_) => n.to_string(),
        NumberPrefix::Prefixed(prefix, amount) => format!("{amount:.1} {prefix}"),
    }
}

/// So many of something, exact: `1 token`, `256 tokens`, `40,960 tokens`. The plural takes an s.
pub(crate) fn count(n: impl Whole, what: &str) -> String {
    let n = whole(n);
    format!("{} {what}{}", HumanCount(n), if n == 1 { "" } else { "s" })
}

/// A rate in powers of 1000: GB/s for the unit `B/s`.
pub(crate) fn rate(per_second: f64, unit: &str) -> String {
    match one_decimal(per_second, 1000.0) {
        NumberPrefix::Standalone(amount) => format!("{amount:.1} {unit}"),
        NumberPrefix::Prefixed(prefix, amount) => format!("{amount:.1} {prefix}{unit}"),
    }
}

/// A duration: ms, s or min and s, whichever is read best.
pub(crate) fn seconds(seconds: f64) -> String {
    let ms = seconds * 1e3;
    if ms < 9.95 {
        format!("{ms:.1} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if seconds < 99.95 {
        format!("{seconds:.1} s")
    } else {
        let whole = seconds.round() as u64;
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

/// The prefix under which the number, rounded to one decimal, is below the next one's `base`: never
/// `1024.0 KiB`.
fn one_decimal(n: f64, base: f64) -> NumberPrefix<f64> {
    let prefixed = |n| if base == 1024.0 { NumberPrefix::binary(n) } else { NumberPrefix::decimal(n) };
    let found = prefixed(n);
    let (NumberPrefix::Standalone(amount) | NumberPrefix::Prefixed(_, amount)) = found;
    if (amount * 10.0).round() / 10.0 < base {
        return found;
    }
    // A little more than the next prefix's 1, whatever this division loses.
    prefixed(n * (base / amount) * (1.0 + 1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_binary_with_one_decimal() {
        let cases = [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1,023 bytes"),
            (1024, "1.0 KiB"),
            (8_000_768, "7.6 MiB"),
            (25_276_510_208, "23.5 GiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            ((1 << 20) - 100, "1023.9 KiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text, "{n}");
        }
        assert_eq!(bytes(1024_usize), bytes(1024_u32));
    }

    #[test]
    fn large_numbers_are_decimal() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1.0 k"),
            (8_000_768, "8.0 M"),
            (999_949, "999.9 k"),
            (999_999, "1.0 M"),
            (30_532_122_624_u64, "30.5 G"),
        ];
        for (n, text) in cases {
            assert_eq!(short(n), text, "{n}");
        }
    }

    #[test]
    fn counts_are_exact_and_have_their_plural() {
        assert_eq!(count(1_u8, "token"), "1 token");
        assert_eq!(count(256_usize, "token"), "256 tokens");
        assert_eq!(count(40_960_u64, "token"), "40,960 tokens");
    }

    #[test]
    fn rates_and_durations_keep_what_matters() {
        assert_eq!(rate(11.42e9, "B/s"), "11.4 GB/s");
        assert_eq!(rate(99.97e12, "FLOP/s"), "100.0 TFLOP/s");
        assert_eq!(rate(12.0, "B/s"), "12.0 B/s");
        let cases = [
            (0.000_4, "0.4 ms"),
            (0.034, "34 ms"),
            (0.999_6, "1.0 s"),
            (1.23, "1.2 s"),
            (125.0, "2 min 5 s"),
            (119.99, "2 min 0 s"),
        ];
        for (duration, text) in cases {
            assert_eq!(seconds(duration), text, "{duration}");
        }
    }
}
