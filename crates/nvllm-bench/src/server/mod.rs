//! Workloads of requests: what the clients of a server see, ours or any other that speaks
//! `OpenAI`'s completions, and beside it what the engine does with the same requests in this
//! process ([`ServerSession::alone`]), so that what HTTP costs is the difference.
//!
//! The client is one thread, so that on a small machine it takes as little from the server as it
//! can; the CPU time that it took is in the record. Tokens are counted by the server's own `usage`.

mod alone;
mod answer;
mod answerer;
mod arrivals;
mod check;
mod client;
mod load;
mod overload;
mod serve;
mod session;
mod soak;
mod texts;

pub use client::Url;
pub(crate) use session::OVER_HTTP;
pub use session::{RequestSettings, ServerSession, ServerSettings, ServerWorkload};

use crate::record::{Record, names};
use crate::workload::Figures;
use crate::{BenchError, Result, units};

/// Every workload of requests.
pub static REGISTRY: [&dyn ServerWorkload; 4] =
    [&serve::Serve, &arrivals::Arrivals, &overload::Overload, &soak::Soak];

/// The workload of this name.
pub fn find(name: &str) -> Result<&'static dyn ServerWorkload> {
    REGISTRY.into_iter().find(|workload| workload.name() == name).ok_or_else(|| {
        let known = REGISTRY.map(ServerWorkload::name).join(", ");
        let problem = format!("`{name}` is not measured over HTTP; with --url there are {known}");
        BenchError::Option { option: "workload", problem }
    })
}

/// What a table shows of a record of one of these workloads.
pub(crate) fn figures(record: &Record) -> Option<Figures> {
    REGISTRY.iter().find(|workload| workload.name() == record.workload)?;
    let outputs: f64 = record.series(names::OUTPUT_TOKENS).iter().sum();
    let seconds: f64 = record.series(names::RUN_SECONDS).iter().sum();
    let value = |name: &str| record.values.get(name).copied().unwrap_or(0.0);
    let mut headline = format!("{} for {outputs:.0} output tokens", units::duration(seconds));
    for (name, what) in [
        (names::REFUSED, "refused"),
        (names::CANCELLED, "cancelled"),
        (names::FAILED, "failed"),
        (names::GOODPUT, "requests/s within 2000/100 ms"),
    ] {
        if record.values.contains_key(name) {
            headline += &format!(", {:.3} {what}", value(name));
        }
    }
    let client_cpu = record.values.get(names::CLIENT_CPU_SECONDS);
    let limit =
        client_cpu.map_or_else(|| "without HTTP".into(), |seconds| format!("{seconds:.2} client CPU s"));
    Some(Figures { headline, rate: Some(outputs / seconds), limit })
}
