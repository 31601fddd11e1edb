//! A number of bytes as people read it.

use std::fmt;

/// Shows a number of bytes in powers of 1024: `512 bytes`, `7.6 MiB`, `23.5 GiB`. What programs
/// read stays a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub usize);

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            return write!(f, "{} byte{}", self.0, if self.0 == 1 { "" } else { "s" });
        }
        let mut amount = self.0 as f64 / 1024.0;
        // What would be shown as 1024.0 is 1.0 of the next unit.
        for unit in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
            if amount < 1023.95 {
                return write!(f, "{amount:.1} {unit}");
            }
            amount /= 1024.0;
        }
        write!(f, "{amount:.1} EiB")
    }
}

#[cfg(test)]
mod tests {
    use super::ByteCount;

    #[test]
    fn one_decimal_of_the_largest_unit() {
        let cases = [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (8_000_768, "7.6 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            ((1 << 20) - 100, "1023.9 KiB"),
            (25_276_510_208, "23.5 GiB"),
            (usize::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(ByteCount(bytes).to_string(), text, "{bytes}");
        }
    }
}
