//! Times of a whole set of requests.

/// When one engine's run over the set came to what.
pub(crate) struct SetTimes {
    pub seconds: f64,
    pub ttft: Vec<f64>,
    pub e2el: Vec<f64>,
    /// Empty where the engine does not tell.
    pub itl: Vec<f64>,
}
