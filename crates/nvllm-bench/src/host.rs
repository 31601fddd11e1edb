//! Facts about the machine, this process and the source. What cannot be found out is left out of
//! the record.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nvllm_engine::hub::ModelFiles;
use sha2::{Digest as _, Sha256};

use crate::record::{Host, Source};
use crate::{BenchError, Result, stats};

/// The machine, now; `memory_bytes` as the backend found it.
pub fn host(memory_bytes: usize) -> Host {
    let cpuinfo = read("/proc/cpuinfo");
    let fields = |name: &'static str| {
        cpuinfo
            .lines()
            .filter(move |line| line.starts_with(name))
            .filter_map(|line| Some(line.split_once(':')?.1.trim()))
    };
    let clocks: Vec<f64> = fields("cpu MHz").filter_map(|clock| clock.parse().ok()).collect();
    let load = read("/proc/loadavg");
    let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    Host {
        cpu: fields("model name").next().unwrap_or(std::env::consts::ARCH).into(),
        num_cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes,
        os: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
        load_before: load.split_whitespace().next().and_then(|load| load.parse().ok()),
        clock_mhz: (!clocks.is_empty()).then(|| stats::median(clocks)),
        governor: Some(governor.trim().to_owned()).filter(|governor| !governor.is_empty()),
        power_limit_watts: power_limit_watts(Path::new("/sys/class/powercap")),
    }
}

/// The long-term power limits of all packages that the kernel's power capping tells of, in watts.
fn power_limit_watts(powercap: &Path) -> Option<f64> {
    let zones = std::fs::read_dir(powercap).ok()?.filter_map(Result::ok);
    // `intel-rapl:0` is a package, `intel-rapl:0:0` a part of one.
    let packages = zones.filter(|zone| zone.file_name().to_string_lossy().matches(':').count() == 1);
    let limit = |zone: std::fs::DirEntry| {
        let text = std::fs::read_to_string(zone.path().join("constraint_0_power_limit_uw")).ok()?;
        text.trim().parse::<f64>().ok()
    };
    let limits: Vec<f64> = packages.filter_map(limit).collect();
    (!limits.is_empty()).then(|| limits.iter().sum::<f64>() / 1e6)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Bytes behind `name` (`VmRSS:`, `MemAvailable:`) in a file of the kernel that counts in kB.
fn kilobytes(path: &str, name: &str) -> Option<usize> {
    let text = read(path);
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// Resident bytes of this process, mapped files included; `None` where the system does not tell.
pub fn resident_bytes() -> Option<usize> {
    kilobytes("/proc/self/status", "VmRSS:")
}

/// Bytes of memory; `None` where the system does not tell.
pub fn total_bytes() -> Option<usize> {
    kilobytes("/proc/meminfo", "MemTotal:")
}

/// CPU time that this process has taken, in seconds; `None` where the system does not tell.
pub fn cpu_seconds() -> Option<f64> {
    // Fields 14 and 15, counted after the name, which may hold blanks.
    let stat = read("/proc/self/stat");
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// The unit of `/proc/self/stat` on every Linux that this was built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Bytes that can be had without pushing anything out; `None` where the system does not tell.
pub fn available_bytes() -> Option<usize> {
    kilobytes("/proc/meminfo", "MemAvailable:")
}

/// Bytes that this process and its ended children read from storage, past the page cache.
pub fn storage_read_bytes() -> Option<u64> {
    read("/proc/self/io").lines().find_map(|line| line.strip_prefix("read_bytes:"))?.trim().parse().ok()
}

/// Asks the system to drop its cached pages of the file; pages that a process maps stay.
///
/// Errors if the file cannot be opened or the system refuses.
pub fn evict(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(BenchError::io("open", path))?;
    // Only pages that are on disk can be dropped.
    file.sync_all().map_err(BenchError::io("sync", path))?;
    drop_pages(&file).map_err(BenchError::io("drop the cached pages of", path))
}

#[cfg(target_os = "linux")]
fn drop_pages(file: &File) -> std::io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

#[cfg(not(target_os = "linux"))]
fn drop_pages(_: &File) -> std::io::Result<()> {
    Err(std::io::Error::from(std::io::ErrorKind::Unsupported))
}

/// Commit of the repository at `root`, and whether its tracked files differ from it. `None` if it
/// is none.
pub fn commit(root: &Path) -> Option<Source> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(root).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"]);
    Some(Source { commit, dirty: Some(changes.is_none_or(|changes| !changes.is_empty())) })
}

/// The time of day, UTC, to the second.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The weight files of the model at `path`, a directory or a GGUF file, in order, without an index.
///
/// Errors if there are none, or none that can be used.
pub fn weight_files(path: &Path) -> Result<Vec<PathBuf>> {
    let files = if path.is_file() { ModelFiles::gguf(path) } else { ModelFiles::in_directory(path) };
    Ok(files?.weights.paths().to_vec())
}

/// SHA-256 of the files' bytes one after another, hexadecimal: of one file, what `sha256sum`
/// prints.
pub fn sha256_files(files: &[PathBuf]) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let mut file = File::open(path).map_err(BenchError::io("read", path))?;
        loop {
            match file.read(&mut buffer).map_err(BenchError::io("read", path))? {
                0 => break,
                len => hasher.update(&buffer[..len]),
            }
        }
    }
    Ok(hexadecimal(&hasher.finalize()))
}

/// SHA-256 of bytes in memory, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The last component of a path, other text as it is: where things lie on this machine is nobody's
/// business.
pub fn base_name(text: &str) -> String {
    Path::new(text).file_name().map_or_else(|| text.into(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_what_it_knows() {
        let host = host(7);
        assert!(!host.cpu.is_empty() && host.num_cpus > 0 && host.memory_bytes == 7);
    }

    #[test]
    fn power_limits_of_packages_add_up() {
        let dir = tempfile::tempdir().unwrap();
        for (zone, limit) in
            [("intel-rapl:0", "65000000\n"), ("intel-rapl:1", "60000000"), ("intel-rapl:0:0", "1")]
        {
            std::fs::create_dir(dir.path().join(zone)).unwrap();
            std::fs::write(dir.path().join(zone).join("constraint_0_power_limit_uw"), limit).unwrap();
        }
        assert_eq!(power_limit_watts(dir.path()), Some(125.0));
        assert_eq!(power_limit_watts(&dir.path().join("none")), None);
    }

    #[test]
    fn weights_are_hashed_in_order_of_their_files() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("b.safetensors", "c"), ("a.safetensors", "ab"), ("config.json", "{}")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let files = weight_files(dir.path()).unwrap();
        assert_eq!(sha256_files(&files).unwrap(), sha256(b"abc"));
        // FIPS 180-2's example.
        assert!(sha256(b"abc").starts_with("ba7816bf8f01cfea"));
        assert!(weight_files(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_gguf_file_is_its_own_weights() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"];
        let [a, b1, b2] = names.map(|name| {
            std::fs::write(dir.path().join(name), "GGUF").unwrap();
            dir.path().join(name)
        });
        assert_eq!(weight_files(&a).unwrap(), [a]);
        assert_eq!(weight_files(&b1).unwrap(), [b1, b2]);
    }

    #[test]
    fn names_are_cut_and_flags_are_not() {
        assert_eq!(base_name("a/b/model"), "model");
        assert_eq!(base_name("--quick"), "--quick");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_leaves_the_page_cache() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; 1 << 16]).unwrap();
        evict(file.path()).unwrap();
        assert!(evict(Path::new("no/such/file")).unwrap_err().to_string().contains("no/such/file"));
        assert!(resident_bytes().unwrap() > 0 && available_bytes().unwrap() > 0);
    }
}
