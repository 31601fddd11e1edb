//! What a service manager is told (systemd's `Type=notify`).

#[cfg(unix)]
pub(super) use sd_notify::NotifyState as State;

/// Tells it, if there is one. That it cannot be told stops nothing.
#[cfg(unix)]
pub(super) fn notify(states: &[State<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

/// What there would be to tell.
#[cfg(not(unix))]
pub(super) enum State<'a> {
    Ready,
    Stopping,
    Status(&'a str),
}

/// There is none.
#[cfg(not(unix))]
pub(super) fn notify(_states: &[State<'_>]) {}
