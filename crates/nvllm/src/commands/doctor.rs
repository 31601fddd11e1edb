//! `nvllm doctor`: what this machine has for running models, and what is missing.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use nvllm_bench::machine;
use nvllm_core::{Backend, BackendInfo};
use nvllm_cpu::{CpuBackend, Isa, PoolConfig};
use serde::Serialize;

use crate::auto::{self, Choice};
use crate::built_in::{Adapter, CudaFindings};
use crate::flags::{BackendName, DeviceArgs};
use crate::output::{note, outln};
use crate::rates::{self, Rates};
use crate::{backends, built_in, environment, human};

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm doctor
  nvllm doctor --json")]
pub(crate) struct Doctor {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Everything that was found, as `--json` prints it.
#[derive(Serialize)]
struct Findings {
    version: &'static str,
    /// The name of the backend that `--backend auto` takes, and why.
    backend: String,
    reason: String,
    /// That can compute here, the one that `auto` takes first.
    devices: Vec<Device>,
    /// The CPU's memory that can be had now.
    available_bytes: Option<usize>,
    /// Instruction sets that there are kernels for and this CPU lacks, with what it lacks.
    missing_isas: Vec<String>,
    cuda: CudaFindings,
    /// What `--backend wgpu` can choose from.
    adapters: Vec<Adapter>,
    /// Why a GPU that is there cannot be used.
    unusable_gpu: Option<String>,
    embedded_model: Option<&'static str>,
    /// Where fetched models are; none where there is no home directory and no variable names it.
    hub_cache: Option<Folder>,
    /// Where this program keeps what it can make again.
    cache: Option<Folder>,
}

/// A device with its rates, now and before.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names of the JSON")]
struct Device {
    backend: String,
    device: String,
    memory_bytes: usize,
    rates: Rates,
    /// The last time.
    kept: Option<Rates>,
}

impl Device {
    /// Measures the device and keeps what it reaches.
    fn measure(backend: &dyn Backend) -> Self {
        let BackendInfo { name, device, memory_bytes, .. } = backend.info();
        let kept = rates::read(&device);
        let rates = Rates::measure(backend, |line| note!("{line}"));
        if let Err(e) = rates::keep(&device, &rates) {
            let cache = environment::cache_dir().unwrap_or_default();
            note!("warning: the measured rates cannot be kept in {}: {e}", cache.display());
        }
        Self { backend: name, device, memory_bytes, rates, kept }
    }

    /// In words: what it reaches now, and what it reached the last time.
    fn rates(&self) -> String {
        let words = |rates: &Rates| {
            let read = rates.read_bandwidth.map(|rate| format!("reads {}", human::rate(rate, "B/s")));
            let matmul = rates.matmul.map(|rate| format!("{} in bf16 products", human::rate(rate, "FLOP/s")));
            read.into_iter().chain(matmul).collect::<Vec<_>>().join(", ")
        };
        let kept = self.kept.as_ref().map_or_else(String::new, |kept| {
            let day = kept.date.split('T').next().unwrap_or_default();
            format!(" ({day}: {})", words(kept))
        });
        format!("{}{kept}", words(&self.rates))
    }
}

/// A folder and what lies in it.
#[derive(Serialize)]
struct Folder {
    path: PathBuf,
    bytes: u64,
}

impl Folder {
    fn of(path: PathBuf) -> Self {
        let bytes = bytes_below(&path);
        Self { path, bytes }
    }
}

/// Bytes of the files below a folder; links, of which the hub cache has many, are not followed. 0
/// if there is none.
fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    };
    entries.filter_map(Result::ok).map(bytes).sum()
}

pub(super) fn run(args: &Doctor) -> Result<()> {
    let findings = find()?;
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&findings)?)?;
        return Ok(());
    }
    print(&findings)
}

fn find() -> Result<Findings> {
    let cpu = CpuBackend::new(&PoolConfig::default())?;
    let cuda = built_in::cuda_findings();
    let auto_args =
        DeviceArgs { backend: BackendName::Auto, gpu: None, adapter: None, threads: None, pin: false };
    let (mut devices, mut unusable_gpu) = (Vec::new(), None);
    if !cuda.gpus.is_empty() {
        match built_in::cuda(&auto_args) {
            Ok(gpu) => devices.push(Device::measure(gpu.as_ref())),
            Err(reason) => unusable_gpu = Some(format!("{reason:#}")),
        }
    }
    let reason = if devices.is_empty() {
        let Choice { adapter, reason } = auto::choice(&auto_args, || backends::cpu(&auto_args), true)?;
        if let Some(adapter) = adapter {
            let asked = DeviceArgs { adapter: Some(adapter.to_string()), ..auto_args };
            devices.push(Device::measure(&*built_in::wgpu(&asked)?));
        }
        reason
    } else {
        "CUDA has a GPU".into()
    };
    devices.push(Device::measure(&cpu));
    let missing = |isa: Isa| Some(format!("{isa} (for want of {})", isa.missing()?));
    Ok(Findings {
        version: env!("CARGO_PKG_VERSION"),
        backend: devices[0].backend.clone(),
        reason,
        devices,
        available_bytes: machine::available_bytes(),
        missing_isas: Isa::ALL.iter().copied().filter_map(missing).collect(),
        cuda,
        adapters: built_in::adapters(),
        unusable_gpu,
        embedded_model: built_in::open().ok().map(|_| built_in::NAME),
        hub_cache: environment::hub_cache().ok().map(Folder::of),
        cache: environment::cache_dir().map(Folder::of),
    })
}

fn print(findings: &Findings) -> Result<()> {
    outln!("nvllm {}", findings.version)?;
    let Device { device, memory_bytes, .. } = &findings.devices[0];
    let place = if findings.backend == "cpu" { "the CPU" } else { "the GPU" };
    outln!("This machine runs models on {place}: {device}, with {} of memory.", human::bytes(*memory_bytes))?;
    if let Some(reason) = &findings.unusable_gpu {
        outln!("A GPU is there and CUDA cannot use it: {reason}.")?;
    }
    outln!("")?;
    for device in &findings.devices {
        outln!("{:9} {}", device.backend, device.device)?;
        let available = findings.available_bytes.filter(|_| device.backend == "cpu");
        let available = available.map_or_else(String::new, |n| format!(", {} available", human::bytes(n)));
        outln!("{:9} {} of memory{available}", "", human::bytes(device.memory_bytes))?;
        outln!("{:9} {}", "", device.rates())?;
    }
    for isa in &findings.missing_isas {
        outln!("{:9} without {isa}", "")?;
    }
    outln!("auto      takes {}: {}", findings.backend, findings.reason)?;
    print_cuda(&findings.cuda)?;
    print_adapters(&findings.adapters)?;
    match findings.embedded_model {
        Some(name) => outln!("model     {name} is in this build")?,
        None => outln!("model     none is in this build: name one with --model")?,
    }
    for (what, folder) in [("hub cache", &findings.hub_cache), ("cache", &findings.cache)] {
        match folder {
            Some(folder) => outln!("{what:9} {}: {}", folder.path.display(), human::bytes(folder.bytes))?,
            None => outln!("{what:9} none: there is no home directory; set HF_HOME and XDG_CACHE_HOME")?,
        }
    }
    Ok(())
}

fn print_cuda(cuda: &CudaFindings) -> Result<()> {
    if let Some(missing) = &cuda.missing {
        outln!("gpu       none: {missing}")?;
    }
    for gpu in &cuda.gpus {
        outln!(
            "gpu {:<5} {}, compute capability {} ({}), {} of memory, driver for CUDA {}",
            gpu.ordinal,
            gpu.name,
            gpu.capability,
            gpu.target,
            human::bytes(gpu.memory_bytes),
            gpu.driver,
        )?;
    }
    for (what, found) in [("kernels", &cuda.kernels), ("cublaslt", &cuda.cublaslt)] {
        if let Some(found) = found {
            outln!("{what:9} {found}")?;
        }
    }
    Ok(())
}

fn print_adapters(adapters: &[Adapter]) -> Result<()> {
    if adapters.is_empty() {
        outln!(
            "adapter   none: --backend wgpu needs a build with it and a driver for Vulkan, Metal or DX12"
        )?;
    }
    for adapter in adapters {
        let Adapter { index, name, api, kind, driver, memory_bytes, binding_bytes, .. } = adapter;
        outln!("adapter {index:<1} {name}, {kind}, {api}, {driver}")?;
        let (memory, binding) = (human::bytes(*memory_bytes), human::bytes(*binding_bytes));
        let [least, most] = adapter.subgroup;
        let features = if adapter.features.is_empty() { "none".into() } else { adapter.features.join(", ") };
        outln!(
            "{:9} {memory} of memory, {binding} a binding, subgroups of {least} to {most}; {features}",
            ""
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_counts_its_files_once() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = dir.path().join("models--a--b/blobs");
        let snapshot = dir.path().join("models--a--b/snapshots/1");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::write(blobs.join("x"), [0; 1000]).unwrap();
        std::fs::write(snapshot.join("y"), [0; 24]).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("../../blobs/x", snapshot.join("x")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("..", snapshot.join("loop")).unwrap();
        assert_eq!(bytes_below(dir.path()), 1024);
        assert_eq!(bytes_below(&dir.path().join("absent")), 0);
    }
}
