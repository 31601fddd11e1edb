//! Which device `--backend auto` takes where CUDA answers nothing: an adapter of wgpu that is not
//! the host's processor and does a decode step in less time than the CPU backend, else the CPU.
//!
//! Steps are measured once and kept in this program's cache, by CPU, adapters and drivers.
//! `nvllm doctor` measures them anew.

use std::collections::BTreeMap;
use std::path::Path;

use nvllm_bench::{PROBE_BYTES, decode_seconds};
use nvllm_core::Backend;
use nvllm_core::device::kept::write_whole;
use serde::{Deserialize, Serialize};

use crate::built_in::{self, Adapter};
use crate::flags::DeviceArgs;
use crate::{environment, human};

/// What `auto` takes, and why in words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice {
    /// The index of the adapter; none for the CPU.
    pub adapter: Option<usize>,
    pub reason: String,
}

/// Seconds of a decode step, by name; none where it cannot be run. The CPU's is under [`CPU`].
type Steps = BTreeMap<String, Option<f64>>;

const CPU: &str = "cpu";

/// What a file holds.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Everything that the times depend on.
    conditions: String,
    steps: Steps,
}

/// What to take on this machine. Adapters are asked for and measured if nothing is kept, or if
/// `anew`; `cpu` is opened for that only.
pub(crate) fn choice(
    args: &DeviceArgs,
    cpu: impl Fn() -> nvllm_engine::Result<Box<dyn Backend>>,
    anew: bool,
) -> nvllm_engine::Result<Choice> {
    let mut adapters = if may_have_gpu(Path::new("/dev")) { built_in::adapters() } else { Vec::new() };
    adapters.retain(|adapter| !adapter.is_cpu);
    if adapters.is_empty() {
        return Ok(choose(&Steps::new(), &adapters));
    }
    let cpu = cpu()?;
    let conditions = conditions(&cpu.info().device, &adapters);
    let path = environment::cache_dir().map(|dir| dir.join("auto.json"));
    let kept = path.as_deref().filter(|_| !anew).and_then(|path| read(path, &conditions));
    let steps = kept.unwrap_or_else(|| {
        let steps = measure(args, &*cpu, &adapters);
        keep(path.as_deref(), &Kept { conditions: conditions.clone(), steps: steps.clone() });
        steps
    });
    Ok(choose(&steps, &adapters))
}

/// Whether there may be an adapter that is a GPU: on Linux each has a file among these. Without one
/// no driver is asked, which takes tens of milliseconds, and where there is no desktop a part of
/// Mesa writes to standard error.
fn may_have_gpu(dev: &Path) -> bool {
    let renders = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("renderD"))
    };
    cfg!(not(target_os = "linux"))
        || ["nvidiactl", "dxg"].iter().any(|name| dev.join(name).exists())
        || std::fs::read_dir(dev.join("dri")).is_ok_and(|mut entries| entries.any(renders))
}

/// The fastest of what was measured; the CPU where nothing is faster.
fn choose(steps: &Steps, adapters: &[Adapter]) -> Choice {
    let seconds = |name: &str| steps.get(name).copied().flatten();
    let timed = adapters.iter().filter_map(|adapter| Some((adapter, seconds(&key(adapter))?)));
    let Some((best, fastest)) = timed.min_by(|a, b| a.1.total_cmp(&b.1)) else {
        let reason = if adapters.is_empty() {
            "no adapter is a GPU".into()
        } else {
            "no adapter that is a GPU could be measured".into()
        };
        return Choice { adapter: None, reason };
    };
    let on_cpu = seconds(CPU);
    let wins = on_cpu.is_none_or(|on_cpu| fastest < on_cpu);
    let time = |seconds: Option<f64>| match seconds {
        Some(seconds) => format!("{:.2} ms", seconds * 1e3),
        None => "no time that could be measured".into(),
    };
    let reason = format!(
        "a decode step over {} of weights takes {} on adapter {}, {}, and {} on the CPU",
        human::bytes(PROBE_BYTES),
        time(Some(fastest)),
        best.index,
        best.name,
        time(on_cpu)
    );
    Choice { adapter: wins.then_some(best.index), reason }
}

/// Steps on the CPU and on each adapter. What fails is not taken, and the log says why.
fn measure(args: &DeviceArgs, cpu: &dyn Backend, adapters: &[Adapter]) -> Steps {
    let time = |backend: &dyn Backend| Ok(decode_seconds(backend)?);
    let on_adapter = |adapter: &Adapter| {
        let args = DeviceArgs { adapter: Some(adapter.index.to_string()), ..args.clone() };
        built_in::wgpu(&args).and_then(|backend| time(&*backend))
    };
    let mut steps = Steps::from([(CPU.to_owned(), said(CPU, time(cpu)))]);
    steps.extend(adapters.iter().map(|adapter| {
        let name = key(adapter);
        let seconds = said(&name, on_adapter(adapter));
        (name, seconds)
    }));
    steps
}

/// The time, or none with a message.
fn said(name: &str, measured: anyhow::Result<f64>) -> Option<f64> {
    measured.inspect_err(|error| tracing::warn!("a decode step on {name} cannot be measured: {error:#}")).ok()
}

/// An adapter among those of this machine.
fn key(adapter: &Adapter) -> String {
    format!("{} {}", adapter.index, adapter.name)
}

/// Everything that the times depend on: this program, too.
fn conditions(cpu: &str, adapters: &[Adapter]) -> String {
    let one = |adapter: &Adapter| format!("{}, {}, {}", key(adapter), adapter.api, adapter.driver);
    let all: Vec<_> = adapters.iter().map(one).collect();
    format!("nvllm {}; {cpu}; {}", env!("CARGO_PKG_VERSION"), all.join("; "))
}

/// What the file holds for these conditions; none if it is not there, damaged or of others.
fn read(path: &Path, conditions: &str) -> Option<Steps> {
    let kept: Kept = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let sound = |seconds: &Option<f64>| seconds.is_none_or(|seconds| seconds.is_finite() && seconds > 0.0);
    (kept.conditions == conditions && kept.steps.values().all(sound)).then_some(kept.steps)
}

/// A folder that cannot be written costs measuring again.
fn keep(path: Option<&Path>, kept: &Kept) {
    let Some(path) = path else { return };
    let text = serde_json::to_vec_pretty(kept).map_err(std::io::Error::from);
    if let Err(error) = text.and_then(|text| write_whole(path, &text)) {
        tracing::warn!(path = %path.display(), %error, "measured decode steps cannot be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, name: &str) -> Adapter {
        Adapter {
            index,
            name: name.into(),
            api: "Vulkan",
            kind: "discrete GPU",
            is_cpu: false,
            driver: "1".into(),
            memory_bytes: 1 << 30,
            binding_bytes: 1 << 27,
            subgroup: [32, 32],
            features: Vec::new(),
        }
    }

    /// What is taken with these times, in ms, of the CPU and of adapters 1 and 3.
    fn taken(cpu: Option<f64>, one: Option<f64>, three: Option<f64>) -> Choice {
        let adapters = [adapter(1, "Iris"), adapter(3, "Radeon")];
        let all = [(CPU.to_owned(), cpu), (key(&adapters[0]), one), (key(&adapters[1]), three)];
        let steps = all.map(|(name, ms)| (name, ms.map(|ms: f64| ms * 1e-3))).into();
        choose(&steps, &adapters)
    }

    #[test]
    fn the_fastest_is_taken_and_the_cpu_where_nothing_is_faster() {
        let table = [
            ((Some(2.0), Some(1.0), Some(0.5)), Some(3)),
            ((Some(2.0), Some(0.4), Some(0.5)), Some(1)),
            ((Some(2.0), None, Some(0.5)), Some(3)),
            ((Some(0.3), Some(1.0), Some(0.5)), None),
            ((Some(0.5), None, Some(0.5)), None),
            ((Some(2.0), None, None), None),
            ((None, Some(9.0), None), Some(1)),
        ];
        for ((cpu, one, three), adapter) in table {
            let choice = taken(cpu, one, three);
            assert_eq!(choice.adapter, adapter, "{cpu:?} {one:?} {three:?}: {}", choice.reason);
        }
    }

    #[test]
    fn the_reason_names_both_times() {
        let reason = taken(Some(2.0), Some(1.0), Some(0.25)).reason;
        assert_eq!(
            reason,
            "a decode step over 64.0 MiB of weights takes 0.25 ms on adapter 3, Radeon, and 2.00 ms on the CPU"
        );
        assert_eq!(choose(&Steps::new(), &[]).reason, "no adapter is a GPU");
        let failed = taken(Some(2.0), None, None).reason;
        assert_eq!(failed, "no adapter that is a GPU could be measured");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn drivers_are_asked_only_where_there_may_be_a_gpu() {
        for (files, may) in [
            (&["null"][..], false),
            (&["dri/card0"], false),
            (&["dri/card0", "dri/renderD128"], true),
            (&["nvidiactl"], true),
            (&["dxg"], true),
        ] {
            let dev = tempfile::tempdir().unwrap();
            std::fs::create_dir(dev.path().join("dri")).unwrap();
            files.iter().for_each(|file| std::fs::write(dev.path().join(file), "").unwrap());
            assert_eq!(may_have_gpu(dev.path()), may, "{files:?}");
        }
        assert!(!may_have_gpu(Path::new("/nowhere")));
    }

    #[test]
    fn times_are_kept_for_the_same_machine_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nvllm/auto.json");
        let steps = Steps::from([(CPU.to_owned(), Some(1e-3)), ("1 Iris".to_owned(), None)]);
        let kept = |conditions: &str| Kept { conditions: conditions.into(), steps: steps.clone() };
        assert_eq!(read(&path, "here"), None);
        keep(Some(&path), &kept("here"));
        assert_eq!(read(&path, "here"), Some(steps.clone()));
        assert_eq!(read(&path, "with another driver"), None);
        for damaged in ["", "{", "[]", r#"{"conditions": "here", "steps": {"cpu": -1.0}}"#] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read(&path, "here"), None, "{damaged}");
        }
        keep(None, &kept("here"));
        let here = conditions("a CPU, 2 threads", &[adapter(1, "Iris")]);
        assert_ne!(here, conditions("a CPU, 4 threads", &[adapter(1, "Iris")]));
        assert_ne!(here, conditions("a CPU, 2 threads", &[adapter(1, "Radeon")]));
    }
}
