//! What a measurement gives, before it is a record.

use crate::record::{Cost, Series};

/// What was measured of one case by one engine.
#[derive(Default)]
pub(crate) struct Measurement {
    pub cost: Option<Cost>,
    pub series: Vec<(&'static str, Series)>,
    pub values: Vec<(&'static str, f64)>,
}
