//! How many processors this process may use: its affinity mask, cut by cgroup CPU quotas; how long
//! a thread has used one.

use std::path::Path;
use std::time::Duration;

/// The processors in this thread's affinity mask, ascending. Empty where the system does not say.
pub fn allowed_cpus() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: an all-zero cpu_set_t is a valid, empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer and size describe `set`; pid 0 is the calling thread.
        let rc = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
        if rc == 0 {
            // SAFETY: CPU_ISSET reads within the set for indices below CPU_SETSIZE.
            return (0..libc::CPU_SETSIZE as usize)
                .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
                .collect();
        }
    }
    Vec::new()
}

/// Keeps the calling thread on one processor.
pub(crate) fn pin_to(cpu: usize) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: an all-zero cpu_set_t is a valid, empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: `cpu` came from a cpu_set_t, so it is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
        // SAFETY: the pointer and size describe `set`; pid 0 is the calling thread.
        if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } == 0 {
            return Ok(());
        }
        Err(std::io::Error::last_os_error())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = cpu;
        Err(std::io::Error::from(std::io::ErrorKind::Unsupported))
    }
}

/// How long the calling thread has been running, where the system says.
pub(crate) fn thread_time() -> Option<Duration> {
    #[cfg(unix)]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec that this frame owns.
        if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } == 0 {
            return Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?));
        }
    }
    None
}

/// Threads that make sense here: the affinity mask (or what the standard library finds), cut by the
/// cgroup quota, at least 1.
pub fn default_threads() -> usize {
    let allowed = allowed_cpus().len();
    let visible =
        if allowed > 0 { allowed } else { std::thread::available_parallelism().map_or(1, usize::from) };
    let quota = cgroup_quota(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
    visible.min(quota.map_or(usize::MAX, whole_cpus)).max(1)
}

/// A quota of 1.5 processors is worth 2 threads: fewer would leave part of it unused.
fn whole_cpus(quota: f64) -> usize {
    (quota.ceil() as usize).max(1)
}

/// The smallest CPU quota, in processors, of the process's cgroup and its ancestors, of version 2
/// or of version 1.
fn cgroup_quota(membership: &Path, root: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(membership).ok()?;
    let mut smallest: Option<f64> = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = if controllers.is_empty() {
            quotas_upwards(root, path, |dir| parse_v2(&read(&dir.join("cpu.max"))?))
        } else if controllers.split(',').any(|c| c == "cpu") {
            let mounted = [root.join(controllers), root.join("cpu"), root.join("cpu,cpuacct")];
            let Some(base) = mounted.into_iter().find(|dir| dir.is_dir()) else { continue };
            quotas_upwards(&base, path, |dir| {
                parse_v1(&read(&dir.join("cpu.cfs_quota_us"))?, &read(&dir.join("cpu.cfs_period_us"))?)
            })
        } else {
            None
        };
        smallest = match (smallest, found) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    smallest
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The smallest quota from `base/path` up to `base`. In a container `path` may not exist below its
/// own mount: then `base` counts.
fn quotas_upwards(base: &Path, path: &str, quota: impl Fn(&Path) -> Option<f64>) -> Option<f64> {
    let mut dir = base.join(path.trim_start_matches('/'));
    let mut smallest: Option<f64> = None;
    loop {
        if let Some(q) = quota(&dir) {
            smallest = Some(smallest.map_or(q, |s| s.min(q)));
        }
        if dir == base || !dir.starts_with(base) || !dir.pop() {
            return smallest;
        }
    }
}

/// `"200000 100000"` is 2 processors, `"max 100000"` no limit.
fn parse_v2(text: &str) -> Option<f64> {
    let mut fields = text.split_whitespace();
    ratio(fields.next()?, fields.next()?)
}

/// A quota of -1 is no limit.
fn parse_v1(quota: &str, period: &str) -> Option<f64> {
    ratio(quota.trim(), period.trim())
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_parsed() {
        assert_eq!(parse_v2("150000 100000\n"), Some(1.5));
        assert_eq!(parse_v2("max 100000\n"), None);
        assert_eq!(parse_v2("nonsense"), None);
        assert_eq!(parse_v1("400000\n", "100000\n"), Some(4.0));
        assert_eq!(parse_v1("-1\n", "100000\n"), None);
        assert_eq!([0.3, 1.0, 1.5, 2.0].map(whole_cpus), [1, 1, 2, 2]);
    }

    /// A directory tree as the kernel shows it, removed at the end of the test.
    struct Tree(std::path::PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("nvllm-cpu-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Self(root)
        }
        fn quota(&self) -> Option<f64> {
            cgroup_quota(&self.0.join("membership"), &self.0.join("fs"))
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_tightest_ancestor_counts_in_version_2() {
        let tree = Tree::new(
            "v2",
            &[
                ("membership", "0::/a/b\n"),
                ("fs/a/b/cpu.max", "max 100000\n"),
                ("fs/a/cpu.max", "150000 100000\n"),
                ("fs/cpu.max", "800000 100000\n"),
            ],
        );
        assert_eq!(tree.quota(), Some(1.5));
    }

    #[test]
    fn version_1_is_read_below_its_controller() {
        let tree = Tree::new(
            "v1",
            &[
                ("membership", "7:memory:/x\n4:cpu,cpuacct:/x\n"),
                ("fs/cpu,cpuacct/x/cpu.cfs_quota_us", "300000\n"),
                ("fs/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n"),
            ],
        );
        assert_eq!(tree.quota(), Some(3.0));
    }

    #[test]
    fn a_container_sees_its_limit_at_the_mount() {
        let tree = Tree::new("box", &[("membership", "0::/not/visible\n"), ("fs/cpu.max", "50000 100000\n")]);
        assert_eq!(tree.quota(), Some(0.5));
    }

    #[test]
    fn no_cgroup_is_no_limit() {
        assert_eq!(Tree::new("none", &[("membership", "")]).quota(), None);
        assert_eq!(cgroup_quota(Path::new("/nonexistent"), Path::new("/nonexistent")), None);
    }

    #[test]
    fn this_machine_has_a_thread() {
        let cpus = allowed_cpus();
        assert!(default_threads() >= 1);
        assert!(cpus.is_empty() || default_threads() <= cpus.len());
        assert!(cpus.is_sorted());
    }
}
