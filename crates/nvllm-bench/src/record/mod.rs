//! The record: one JSON object a line, with everything that its figures rest on.
//!
//! Version 2, described in `bench/README.md`. Readers ignore fields they do not know; a field's
//! meaning never changes without a new version.

mod file;
pub mod names;
mod series;

use std::collections::BTreeMap;

use nvllm_core::BackendInfo;
use serde::{Deserialize, Serialize};

pub use file::{append, newest_run, read, read_run};
pub use series::Series;

use crate::{BenchError, Result, stats};

/// The version that this crate reads and writes.
pub const SCHEMA: u32 = 2;
/// Bytes of one record, at most.
pub const MAX_BYTES: usize = 256 << 10;

/// One measurement of one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name in the registry of workloads.
    pub workload: String,
    /// Which of the workload's sizes.
    pub case: Case,
    /// Shared by the records of one invocation, whose measurements were interleaved.
    pub run: String,
    /// When it ended, UTC.
    pub time: String,
    /// Who ran.
    pub engine: Engine,
    /// Our source, also for peers: it holds their adapter.
    pub source: Source,
    /// Where.
    pub host: Host,
    /// On what.
    pub device: Device,
    /// With what weights.
    pub model: Model,
    /// Element types.
    pub dtypes: Dtypes,
    /// `invariant` or `fast`, or the peer's own word.
    pub numerics: String,
    /// Threads that compute.
    pub threads: usize,
    /// Seed of prompts, lengths and draws.
    pub seed: u64,
    /// The command line without the program, paths cut to their last component.
    pub flags: Vec<String>,
    /// What one unit moves and computes at least, on average over the units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// Raw measurements by [name](names).
    pub series: BTreeMap<String, Series>,
    /// Single figures by [name](names).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, f64>,
    /// Of the engine that ran, in this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correctness: Option<Correctness>,
}

/// The sizes that tell a workload's cases apart; records of one case compare.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Case {
    /// Sequences in each step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Tokens of each sequence that the cache holds before the first unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Prompt tokens of each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_len: Option<usize>,
    /// Output tokens of each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_len: Option<usize>,
    /// Requests that run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// Requests of the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_requests: Option<usize>,
    /// Share of the set's full lengths, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_percent: Option<usize>,
    /// The kind of op, of those that make up a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// `cold` or `warm` page cache; `prefix` or `whole` of a text; `limit N`: the tokens of a
    /// sequence that the model was loaded for; what `nvllm verify` varied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// An engine as it was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Name; ours is [`OURS`].
    pub name: String,
    /// Version.
    pub version: String,
    /// How a peer was started, paths cut to their last component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Build and settings, in its own words.
    pub detail: String,
}

/// The name of our engine.
pub const OURS: &str = "nvllm";

/// The repository's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Commit, or the version of a released binary.
    pub commit: String,
    /// Whether tracked files differed from it; absent where there is no repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
}

/// The machine as found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub num_cpus: usize,
    /// Memory, in bytes.
    pub memory_bytes: usize,
    /// Operating system and kernel.
    pub os: String,
    /// Load average over a minute before the run; above 0 others may have taken their share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_before: Option<f64>,
    /// Median clock of the processors before the run, in MHz, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_mhz: Option<f64>,
    /// Frequency governor, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// Power limit of the packages together, in watts, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit_watts: Option<f64>,
}

/// The device as found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// The backend's name.
    pub backend: String,
    /// In the backend's words, instruction set and threads included.
    pub name: String,
    /// Memory that the backend may use, in bytes.
    pub memory_bytes: usize,
    /// What drives it, with its version; none for a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The fastest clocks of its cores and memory, in MHz; none for a CPU, whose clock is the
    /// host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocks_mhz: Option<[f64; 2]>,
    /// Power limit, in watts; none for a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit_watts: Option<f64>,
}

impl From<BackendInfo> for Device {
    fn from(info: BackendInfo) -> Self {
        Self {
            backend: info.name,
            name: info.device,
            memory_bytes: info.memory_bytes,
            driver: info.driver,
            clocks_mhz: info.clocks_mhz,
            power_limit_watts: None,
        }
    }
}

/// The weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Directory name or shape.
    pub name: String,
    /// Parameters, tied weights once.
    pub num_parameters: usize,
    /// Of the weights as the model names and orders them, hexadecimal.
    pub sha256: String,
    /// Seed of random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// Element types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dtypes {
    /// Of weights.
    pub weights: String,
    /// Of values between ops.
    pub activations: String,
    /// Of the KV cache.
    pub kv: String,
}

/// What one unit takes at least: the roofline's two coordinates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Weight and KV bytes.
    pub bytes: f64,
    /// Multiplications and additions.
    pub flops: f64,
}

/// The result of a correctness check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correctness {
    /// Whether it passed.
    pub passed: bool,
    /// What was checked, with its worst figures.
    pub detail: String,
}

impl Record {
    /// The series of this name, empty if there is none.
    pub fn series(&self, name: &str) -> Vec<f64> {
        self.series.get(name).map(Series::to_vec).unwrap_or_default()
    }

    /// The median of the series of this name.
    pub fn median(&self, name: &str) -> Option<f64> {
        self.series.get(name).filter(|series| !series.is_empty()).map(|series| stats::median(series.values()))
    }

    /// Whether our engine ran.
    pub fn is_ours(&self) -> bool {
        self.engine.name == OURS
    }

    /// Whether `other` measured the same under the same conditions, by another engine or the same
    /// one.
    pub fn compares_to(&self, other: &Self) -> bool {
        self.workload == other.workload
            && self.case == other.case
            && self.run == other.run
            && self.model.sha256 == other.model.sha256
    }

    /// Workload, case and engine, for messages.
    pub fn title(&self) -> String {
        format!("{} {} by {}", self.workload, self.case, self.engine.name)
    }

    /// The share of the roofline: the least time that a unit can take, divided by the time that it
    /// took. The median over groups of units, each against the limits measured beside it.
    ///
    /// `None` if the record lacks one of them.
    pub fn share(&self) -> Option<f64> {
        let cost = self.cost?;
        let (steps, reads) = (self.series(names::STEP_SECONDS), self.series(names::READ_BANDWIDTH));
        let rates = self.series(names::MATMUL_RATE);
        if steps.is_empty() || reads.is_empty() || (cost.flops > 0.0 && rates.is_empty()) {
            return None;
        }
        let pairs = steps.chunks(steps.len().div_ceil(reads.len())).enumerate().map(|(at, units)| {
            let rate = rates.get(at).or(rates.last()).copied().unwrap_or(f64::INFINITY);
            let limit = (cost.bytes / reads[at]).max(cost.flops / rate);
            limit / stats::median(units.iter().copied())
        });
        Some(stats::median(pairs))
    }

    /// Whether memory and not arithmetic bounds the units, by the medians of what was measured
    /// beside them.
    pub fn is_memory_bound(&self) -> Option<bool> {
        let cost = self.cost?;
        let (read, rate) = (self.median(names::READ_BANDWIDTH)?, self.median(names::MATMUL_RATE)?);
        Some(cost.bytes / read >= cost.flops / rate)
    }

    /// Refuses what no figure may rest on.
    pub fn check(&self) -> Result<()> {
        self.fault().map_or(Ok(()), |reason| Err(BenchError::Refused { what: self.title(), reason }))
    }

    fn fault(&self) -> Option<String> {
        if self.schema != SCHEMA {
            return Some(format!("schema {}; this program knows {SCHEMA}", self.schema));
        }
        match &self.correctness {
            None => return Some("the correctness check is missing".into()),
            Some(c) if !c.passed => return Some(format!("the correctness check failed: {}", c.detail)),
            Some(_) => {}
        }
        let said = [
            ("engine.version", &self.engine.version),
            ("source.commit", &self.source.commit),
            ("model.sha256", &self.model.sha256),
            ("run", &self.run),
        ];
        if let Some((field, _)) = said.into_iter().find(|(_, text)| text.is_empty()) {
            return Some(format!("{field} is empty"));
        }
        if self.series.is_empty() && self.values.is_empty() {
            return Some("it holds no measurement".into());
        }
        if let Some((name, _)) = self.series.iter().find(|(_, series)| !series.is_positive()) {
            return Some(format!("{name} is empty or not positive throughout"));
        }
        if let Some((name, value)) = self.values.iter().find(|(_, value)| !value.is_finite() || **value < 0.0)
        {
            return Some(format!("{name} is {value}"));
        }
        let num = |name| self.series.get(name).map_or(0, Series::len);
        let (steps, reads) = (num(names::STEP_SECONDS), num(names::READ_BANDWIDTH));
        if steps > 0 && reads > 0 && steps % reads != 0 {
            return Some(format!("{steps} steps do not divide among {reads} measurements of the limit"));
        }
        None
    }
}

impl std::fmt::Display for Case {
    /// As a table shows it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |name: &str, value: Option<usize>| value.map(|value| format!("{name} {value}"));
        let parts = [
            number("requests", self.num_requests),
            number("concurrency", self.concurrency),
            number("batch", self.batch),
            number("context", self.context),
            number("prompt", self.prompt_len),
            number("output", self.output_len),
            self.scale_percent
                .filter(|percent| *percent != 100)
                .map(|percent| format!("lengths at {percent} %")),
            self.op.clone(),
            self.state.clone(),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
pub(crate) mod tests;
