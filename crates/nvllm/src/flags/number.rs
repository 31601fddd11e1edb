//! Numbers as other tools let them be written: `-1` for "none", `4GiB` for bytes.

use std::fmt::Display;
use std::str::FromStr;

use nvllm_cpu::MAX_THREADS;

/// A number, or `-1` for none: no limit, no cut, a random seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OrNone<T>(pub Option<T>);

impl<T: FromStr<Err: Display>> FromStr for OrNone<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-1" {
            return Ok(Self(None));
        }
        text.parse()
            .map(|number| Self(Some(number)))
            .map_err(|e| format!("{e}; give a number from 0 on, or -1"))
    }
}

/// Bytes: a number with or without a unit. `4GiB` and `4096MiB` count by 1024, `4GB` and `4G` by
/// 1000.
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let parsed = parse_size::parse_size(text).map_err(|e| e.to_string());
    let bytes = parsed.and_then(|bytes| usize::try_from(bytes).map_err(|e| e.to_string()));
    bytes.map_err(|e| format!("{e}; give bytes, as in 4294967296, 4GiB or 512MB"))
}

/// How many of something that cannot be none.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("give at least 1".into()),
        parsed => parsed.map_err(|e| e.to_string()),
    }
}

/// Threads of the CPU backend.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|threads| (1..=MAX_THREADS).contains(threads));
    threads.ok_or_else(|| format!("give a number from 1 to {MAX_THREADS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_is_none() {
        assert_eq!("-1".parse(), Ok(OrNone::<u64>(None)));
        assert_eq!("18446744073709551615".parse(), Ok(OrNone(Some(u64::MAX))));
        assert_eq!("0".parse(), Ok(OrNone(Some(0_u32))));
        for bad in ["-2", "", "1.5", "4294967296", "x"] {
            assert!(bad.parse::<OrNone<u32>>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_with_and_without_units() {
        let good =
            [("1000", 1000), ("4GiB", 4 << 30), ("4 GiB", 4 << 30), ("4gib", 4 << 30), ("1.5MiB", 3 << 19)];
        for (text, expected) in
            good.into_iter().chain([("4GB", 4_000_000_000), ("4G", 4_000_000_000), ("2KB", 2000)])
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "-1", "GiB", "4 apples", "99999999999999999999", "99999999EiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
