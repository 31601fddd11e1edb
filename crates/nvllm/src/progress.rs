//! A bar for work on bytes or tokens, drawn only while someone waits at a terminal, and notices
//! beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::is_quiet;

/// Work that is over sooner shows no bar.
const NOTICEABLE: Duration = Duration::from_millis(500);

/// One bar; clones draw the same.
#[derive(Clone)]
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    shown: Arc<AtomicBool>,
}

impl Progress {
    /// Work called `name`, which begins now.
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, "{msg} {bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}")
    }

    /// The same, for work on tokens.
    pub(crate) fn tokens(name: &str) -> Self {
        Self::with(name, "{msg} {bar:40} {pos}/{len} tokens {per_sec} {eta}")
    }

    fn with(name: &str, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        Self { bar, started: Instant::now(), shown: Arc::default() }
    }

    /// What is worked on now.
    pub(crate) fn name(&self, name: &str) {
        self.bar.set_message(name.to_owned());
    }

    /// So many bytes of all are done. Draws nothing where standard error is no terminal.
    pub(crate) fn set(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        let due = self.started.elapsed() >= NOTICEABLE && !is_quiet();
        if due && !self.shown.swap(true, Ordering::Relaxed) {
            // What was there before the work began is not its speed.
            self.bar.reset_eta();
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            self.bar.enable_steady_tick(Duration::from_millis(500));
        }
    }

    /// Writes lines while the bar is out of the way.
    pub(crate) fn aside(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
