//! Ctrl-C: ends the process, unless an answer is being written that can end alone. A second one
//! always ends the process.
//!
//! ```text
//! nobody listens      Ctrl-C -> exit 130           (download, loading, every command without an answer)
//! an answer listens   Ctrl-C -> the flag is set    (it prints what it has and ends)
//!                     Ctrl-C -> exit 130
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};

/// What a shell gives to a process that Ctrl-C ended: 128 plus the signal's number.
pub(crate) const EXIT_CODE: u8 = 130;

static LISTENING: AtomicBool = AtomicBool::new(false);
static PRESSED: AtomicBool = AtomicBool::new(false);
static BEFORE_EXIT: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Installs the handler, once for the process.
pub(crate) fn install() -> Result<()> {
    let pressed = || {
        if !LISTENING.load(Ordering::SeqCst) || PRESSED.swap(true, Ordering::SeqCst) {
            if let Some(restore) = BEFORE_EXIT.get() {
                restore();
            }
            // The device thread may be in the middle of a step; nothing it holds outlives the
            // process.
            std::process::exit(EXIT_CODE.into());
        }
    };
    ctrlc::set_handler(pressed).context("cannot listen for Ctrl-C")
}

/// Has `restore` run before Ctrl-C ends the process: nothing is dropped then. The first call
/// counts.
pub(crate) fn before_exit(restore: impl Fn() + Send + Sync + 'static) {
    let _ = BEFORE_EXIT.set(Box::new(restore));
}

/// While it lives, a first Ctrl-C is a flag.
pub(crate) struct Listener(());

impl Listener {
    /// Starts to listen; earlier presses are forgotten.
    pub(crate) fn start() -> Self {
        let listener = Self(());
        listener.clear();
        LISTENING.store(true, Ordering::SeqCst);
        listener
    }

    /// Forgets a press that was meant for what has ended since.
    #[expect(clippy::unused_self, reason = "only who listens may forget")]
    pub(crate) fn clear(&self) {
        PRESSED.store(false, Ordering::SeqCst);
    }

    /// Whether Ctrl-C was pressed since the last [`clear`](Self::clear).
    #[expect(clippy::unused_self, reason = "only who listens may ask")]
    pub(crate) fn is_pressed(&self) -> bool {
        PRESSED.load(Ordering::SeqCst)
    }
}

/// Whether Ctrl-C was pressed while somebody listens, for who cannot hold the listener.
#[cfg(not(unix))]
pub(crate) fn is_pressed() -> bool {
    PRESSED.load(Ordering::SeqCst)
}

impl Drop for Listener {
    fn drop(&mut self) {
        LISTENING.store(false, Ordering::SeqCst);
    }
}

/// The error of a command that Ctrl-C ended: the exit code says it, no message does.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}
