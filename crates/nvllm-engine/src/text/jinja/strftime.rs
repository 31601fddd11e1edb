//! `strftime_now(format)`.

use std::time::SystemTime;

use jiff::{Timestamp, Zoned, tz::TimeZone};

use super::values::{Result, error};

/// `datetime.now().strftime(format)`: local time, or UTC for a given instant (so that a text can be
/// reproduced).
pub(in crate::text) fn strftime(format: &str, now: Option<SystemTime>) -> Result<String> {
    let failed = |e: jiff::Error| error(format!("strftime_now({format:?}): {e}"));
    let now = match now {
        None => Zoned::now(),
        Some(instant) => Timestamp::try_from(instant).map_err(failed)?.to_zoned(TimeZone::UTC),
    };
    jiff::fmt::strtime::format(format, &now).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates() {
        let instant = SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000);
        assert_eq!(strftime("%d %b %Y, %H:%M", Some(instant)).unwrap(), "15 Jun 2025, 15:06");
        assert_eq!(strftime("%Y", None).unwrap().len(), 4);
        assert!(strftime("%!", Some(instant)).unwrap_err().to_string().contains("strftime_now"));
    }
}
