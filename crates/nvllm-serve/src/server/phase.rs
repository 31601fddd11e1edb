//! Where a server is in its life, and how long its end may take.

use std::time::Duration;

use tokio::sync::watch;

/// After this long whoever still reads his last answer is left alone.
pub(super) const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serving,
    /// Connections end with the answer that they wait for; new ones are still told so.
    Draining,
    /// No connection is taken, and those that wait for nothing are closed.
    Closing,
}

/// Waits until the server is at `least` there, or gone.
pub(super) async fn reached(mut phase: watch::Receiver<Phase>, least: Phase) {
    let _ = phase.wait_for(|phase| *phase >= least).await;
}
