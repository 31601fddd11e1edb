//! What the user sees while it is measured.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How the program that runs this shows what happens.
pub struct Display {
    /// Progress.
    pub bar: ProgressBar,
    /// A line for the user: what was skipped and why, who the peers are.
    pub note: Box<dyn Fn(&str)>,
}

impl Display {
    /// A bar over `num_workloads`, and `note` above it.
    ///
    /// Where standard error is no terminal the bar is not drawn; notes are.
    pub fn bar(num_workloads: usize, note: fn(&str)) -> Self {
        let bar = ProgressBar::new(num_workloads as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        let above = bar.clone();
        Self { bar, note: Box::new(move |line| above.suspend(|| note(line))) }
    }

    /// Shows nothing.
    pub fn silent() -> Self {
        Self { bar: ProgressBar::hidden(), note: Box::new(|_| {}) }
    }
}
