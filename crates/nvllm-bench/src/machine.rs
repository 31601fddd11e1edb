//! Facts about the machine and this process. What cannot be found out is left out of the record.

use std::path::Path;

use crate::record::Host;
use crate::stats;

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

/// The time of day, UTC, to the second.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
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

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells_of_memory() {
        assert!(resident_bytes().unwrap() > 0 && available_bytes().unwrap() > 0);
    }
}
