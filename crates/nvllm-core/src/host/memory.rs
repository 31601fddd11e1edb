//! How much memory this process may use.

/// Bytes of memory that this process may use: the machine's, or its control group's if that is
/// less.
///
/// Where neither can be read, the address space is the limit.
pub fn memory_bytes() -> usize {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| {
        let kib: usize = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    });
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit =
        groups.iter().find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok());
    total.unwrap_or(usize::MAX).min(limit.unwrap_or(usize::MAX))
}
