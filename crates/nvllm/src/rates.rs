//! The rates of this machine's devices, as `nvllm doctor` last measured them: kept in this
//! program's cache, by device, with their date.
//!
//! They can be measured again, so nothing is lost with the file: one that is damaged counts as
//! absent and is replaced.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};

use nvllm_bench::{MatmulRates, machine};
use nvllm_core::{Activations, Backend, DType};
use serde::{Deserialize, Serialize};

use crate::environment;

/// What a device reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rates {
    /// Bytes a second that are read from its memory.
    #[serde(rename = "read_bandwidth_bytes_per_second")]
    pub read_bandwidth: Option<f64>,
    /// Multiplications and additions a second in bf16 matrix products.
    #[serde(rename = "bf16_matmul_flops_per_second")]
    pub matmul: Option<f64>,
    /// When they were measured, UTC: `2026-11-29T08:00:00Z`.
    pub date: String,
}

impl Rates {
    /// Measures the backend's device: half a second on a CPU. A rate that cannot be measured is
    /// absent, and `warn` is told why.
    pub(crate) fn measure(backend: &dyn Backend, mut warn: impl FnMut(String)) -> Self {
        let mut rate = |what: &str, measured: nvllm_core::Result<Option<f64>>| {
            measured.unwrap_or_else(|error| {
                warn(format!("warning: {what} cannot be measured: {error}"));
                None
            })
        };
        let matmul = MatmulRates::default().measure(backend, DType::Bf16, Activations::Bf16);
        Self {
            read_bandwidth: rate("the memory's read bandwidth", backend.measure_read_bandwidth()),
            matmul: rate("the rate of bf16 matrix products", matmul),
            date: machine::now(),
        }
    }

    fn is_sound(&self) -> bool {
        let sound = |rate: Option<f64>| rate.is_none_or(|rate| rate.is_finite() && rate > 0.0);
        sound(self.read_bandwidth) && sound(self.matmul)
    }
}

/// The kept rates of a device, named as [`nvllm_core::BackendInfo::device`] names it.
pub(crate) fn read(device: &str) -> Option<Rates> {
    read_all(&path()?).remove(device)
}

/// Keeps the rates of a device; those of other devices stay.
///
/// Errors if the cache cannot be written. Without a home directory nothing is kept.
pub(crate) fn keep(device: &str, rates: &Rates) -> std::io::Result<()> {
    path().map_or(Ok(()), |path| keep_in(&path, device, rates))
}

fn path() -> Option<PathBuf> {
    Some(environment::cache_dir()?.join("rates.json"))
}

type All = BTreeMap<String, Rates>;

fn read_all(path: &Path) -> All {
    let all = File::open(path).ok().and_then(|file| serde_json::from_reader(BufReader::new(file)).ok());
    let mut all: All = all.unwrap_or_default();
    all.retain(|_, rates| rates.is_sound());
    all
}

fn keep_in(path: &Path, device: &str, rates: &Rates) -> std::io::Result<()> {
    let mut all = read_all(path);
    all.insert(device.to_owned(), rates.clone());
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    // Whole or not at all, whoever else writes.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer_pretty(&mut file, &all)?;
    file.write_all(b"\n")?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use nvllm_core::{
        BackendInfo, CoreError, Executable, OpQuery, Plan, PlanRules, Reason, Reference, WeightSource,
    };

    use super::*;

    fn rates(read_bandwidth: f64) -> Rates {
        Rates {
            read_bandwidth: Some(read_bandwidth),
            matmul: Some(2e11),
            date: "2026-11-29T08:00:00Z".into(),
        }
    }

    /// A device without memory left for a measurement.
    struct Full(Reference);

    impl Backend for Full {
        fn info(&self) -> BackendInfo {
            self.0.info()
        }

        fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
            self.0.supports(query)
        }

        fn measure_read_bandwidth(&self) -> nvllm_core::Result<Option<f64>> {
            Err(CoreError::OutOfMemory { bytes: 1 << 30, what: "a measurement" })
        }

        fn plan_rules(&self) -> PlanRules {
            self.0.plan_rules()
        }

        fn load(&self, _: Plan, _: &dyn WeightSource) -> nvllm_core::Result<Box<dyn Executable>> {
            Err(CoreError::OutOfMemory { bytes: 1 << 25, what: "a model" })
        }
    }

    #[test]
    fn a_rate_that_cannot_be_measured_is_absent_and_says_why() {
        let mut warnings = Vec::new();
        let rates = Rates::measure(&Full(Reference::default()), |line| warnings.push(line));
        assert_eq!((rates.read_bandwidth, rates.matmul), (None, None));
        let [read, matmul] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(read.starts_with("warning: the memory's read bandwidth cannot be measured: "), "{read}");
        assert!(read.contains("no 1.0 GiB left"), "{read}");
        assert!(matmul.starts_with("warning: the rate of bf16 matrix products cannot be"), "{matmul}");
    }

    #[test]
    fn rates_are_kept_by_device() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not/yet/there/rates.json");
        assert!(read_all(&path).is_empty());
        keep_in(&path, "one", &rates(1e10)).unwrap();
        keep_in(&path, "another", &Rates { matmul: None, ..rates(4e12) }).unwrap();
        keep_in(&path, "one", &rates(1.1e10)).unwrap();
        let all = read_all(&path);
        assert_eq!((all.len(), &all["one"], all["another"].matmul), (2, &rates(1.1e10), None));
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "no temporary file is left");
    }

    #[test]
    fn a_damaged_file_is_ignored_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rates.json");
        for damaged in [
            "",
            "{",
            "[]",
            "\u{0}\u{0}",
            r#"{"one": {}}"#,
            r#"{"one": {"read_bandwidth_bytes_per_second": -1.0, "bf16_matmul_flops_per_second": null, "date": ""}}"#,
        ] {
            std::fs::write(&path, damaged).unwrap();
            assert!(read_all(&path).is_empty(), "{damaged}");
            keep_in(&path, "one", &rates(1e10)).unwrap();
            assert_eq!(read_all(&path)["one"], rates(1e10), "{damaged}");
        }
    }
}
