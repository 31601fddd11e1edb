//! x
pub(super) const ALLOWED: &[(&str, &str, &str)] = &[];
