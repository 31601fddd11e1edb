//! Quantities as people read them.

/// A time as people read it.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.2} ms", 1e3 * seconds) } else { format!("{seconds:.2} s") }
}
