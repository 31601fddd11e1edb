//! `cargo xtask kernels`: every CUDA kernel, compiled for every architecture that a release
//! supports, on a machine without a GPU.
//!
//! A kernel that does not compile fails, and so does one that spills registers beyond what its
//! file's header allows and gives a reason for. What each kernel takes of a multiprocessor is
//! printed, because it decides how many blocks run at once; what it takes on Hopper is in
//! docs/kernels.md, which `--write` writes. Nor may it take more static shared memory than the host
//! counts on, and the host may launch none that is not there. `--embed` keeps the machine code for
//! a release, which then compiles nothing.

mod document;
mod occupancy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::process::run;
use anyhow::{Context, Result, ensure};
use nvllm_cuda::compile::{
    Archive, Budget, Nvrtc, Resources, Source, Target, archive, budgets, entries, resources, sources,
    static_limit,
};

use document::{LISTED, Line};

/// The compiler's package on PyPI: the one way to have it without a toolkit and without root.
const PACKAGE: &str = "nvidia-cuda-nvrtc==13.0.88";

/// Its version: another one gives kernels other registers than docs/kernels.md has.
const VERSION: (i32, i32) = (13, 0);

/// What `--embed` writes, and the cargo feature `embedded-kernels` of `nvllm` puts into the binary.
const ARCHIVE: &str = "target/kernels/archive";

/// Arguments of `kernels`.
#[derive(clap::Args, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Args {
    /// Folder of libnvrtc; the system's loader and target/nvrtc are asked if not given
    #[arg(long)]
    nvrtc: Option<PathBuf>,
    /// Install the compiler into target/nvrtc with pip if it is not found
    #[arg(long)]
    install: bool,
    /// Print each architecture, not only the largest numbers of all
    #[arg(long)]
    all: bool,
    /// Only these architectures (sm_90a); all if none is named
    #[arg(long, value_name = "TARGET", value_delimiter = ',', value_parser = target)]
    target: Vec<Target>,
    /// Keep the machine code in target/kernels/archive, for a build with the feature
    /// `embedded-kernels`
    #[arg(long)]
    embed: bool,
    /// Write docs/kernels.md, to which the kernels are otherwise held
    #[arg(long)]
    write: bool,
}

impl Args {
    /// Those of the continuous integration.
    pub(crate) fn installing() -> Self {
        Self { install: true, ..Self::default() }
    }
}

/// The architecture of this name.
pub(crate) fn target(name: &str) -> Result<Target> {
    let known = || Target::ALL.map(Target::name).join(", ");
    let found = Target::ALL.into_iter().find(|target| target.name() == name);
    found.with_context(|| format!("there are {}", known()))
}

/// Makes the archive that a build embeds, unless it is there, of these sources and for `targets`
/// and no others.
pub(crate) fn ensure_archive(root: &Path, targets: &[Target]) -> Result<()> {
    let kept = std::fs::read(root.join(ARCHIVE)).unwrap_or_default();
    let is_right = |archive: Archive<'_>| {
        Target::ALL.into_iter().all(|target| archive.holds(target) == targets.contains(&target))
    };
    if Archive::open(&kept).is_some_and(is_right) {
        return Ok(());
    }
    let args = Args { install: true, embed: true, target: targets.to_vec(), ..Args::default() };
    let made = command(root, &args)?;
    ensure!(made == ExitCode::SUCCESS, "the kernels do not compile as they should");
    Ok(())
}

/// Compiles everything and prints the table.
pub(crate) fn command(root: &Path, args: &Args) -> Result<ExitCode> {
    let nvrtc = find(root, args)?;
    let (major, minor) = nvrtc.version();
    let (mut faults, mut rows, mut images, mut lines) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let targets = if args.target.is_empty() { &Target::ALL[..] } else { &args.target[..] };
    for &target in targets {
        for source in sources().iter().filter(|source| (source.takes)(target)) {
            match nvrtc.compile(source, target) {
                Ok(compiled) => {
                    let threads = entries(&compiled.image, target).map_err(anyhow::Error::msg)?;
                    for kernel in resources(&compiled.log) {
                        faults.extend(fault(source, target, &kernel));
                        faults.extend(beyond_limit(source, &kernel, static_limit(source)));
                        if target == LISTED {
                            lines.push(Line::new(source, &kernel, &threads));
                        }
                        rows.push((source.path, target.name(), kernel));
                    }
                    images.push((*source, target, compiled.image));
                }
                Err(error) => faults.push(error.to_string()),
            }
        }
    }
    print!("{}", table(&rows, args.all));
    println!(
        "NVRTC {major}.{minor}; {} files for {}",
        sources().len(),
        targets.iter().map(|target| target.name()).collect::<Vec<_>>().join(", ")
    );
    if faults.is_empty() && !lines.is_empty() {
        faults.extend(document::missing(&lines));
        match nvrtc.version() {
            VERSION => faults.extend(document::hold(root, &lines, args.write)?),
            _ => eprintln!("docs/kernels.md is of {PACKAGE}: it is neither written nor compared"),
        }
    }
    for fault in &faults {
        eprintln!("error: {fault}");
    }
    if args.embed && faults.is_empty() {
        embed(&root.join(ARCHIVE), nvrtc, &images)?;
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes the archive and says how large it is.
fn embed(path: &Path, nvrtc: Nvrtc, images: &[(Source, Target, Vec<u8>)]) -> Result<()> {
    let bytes = archive(nvrtc, images).context("cannot compress the machine code")?;
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::write(path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    let unpacked: usize = images.iter().map(|(_, _, image)| image.len()).sum();
    println!("{}: {} images, {unpacked} bytes, {} packed", path.display(), images.len(), bytes.len());
    Ok(())
}

/// What is wrong with what a kernel takes.
fn fault(source: &Source, target: Target, kernel: &Resources) -> Option<String> {
    let allowed = budgets(source).iter().filter(|b| b.covers(&kernel.kernel)).map(|b: &Budget| b.bytes).max();
    let allowed = allowed.unwrap_or(0);
    (kernel.spilled > allowed).then(|| {
        format!(
            "{}: {} spills {} bytes on {}; {allowed} are allowed: use fewer registers, or add `// spills: {} {}: reason` to \
             the header",
            source.path,
            kernel.kernel,
            kernel.spilled,
            target.name(),
            kernel.kernel,
            kernel.spilled
        )
    })
}

/// What is wrong where a kernel takes more static shared memory than the host counts on.
fn beyond_limit(source: &Source, kernel: &Resources, limit: Option<usize>) -> Option<String> {
    let (path, Resources { kernel, shared, .. }) = (source.path, kernel);
    limit.filter(|limit| *shared as usize > *limit).map(|limit| {
        format!(
            "{path}: {kernel} takes {shared} bytes of static shared memory; STATIC_SHARED there is {limit}"
        )
    })
}

/// One line a kernel: the largest number over all architectures, or each of them.
fn table(rows: &[(&str, String, Resources)], all: bool) -> String {
    let mut lines: BTreeMap<(&str, &str, &str), Resources> = BTreeMap::new();
    for (path, target, kernel) in rows {
        let target = if all { target.as_str() } else { "all" };
        let line = lines.entry((path, &kernel.kernel, target)).or_default();
        line.registers = line.registers.max(kernel.registers);
        line.shared = line.shared.max(kernel.shared);
        line.stack = line.stack.max(kernel.stack);
        line.spilled = line.spilled.max(kernel.spilled);
    }
    let mut text = String::from(
        "| file | kernel | target | registers | shared | stack | spilled |\n|---|---|---|---|---|---|---|\n",
    );
    for ((path, kernel, target), r) in lines {
        let Resources { registers, shared, stack, spilled, .. } = r;
        text += &format!("| {path} | {kernel} | {target} | {registers} | {shared} | {stack} | {spilled} |\n");
    }
    text
}

/// The compiler: where it was said to be, where the system finds it, or in the folder that this
/// installs into.
fn find(root: &Path, args: &Args) -> Result<Nvrtc> {
    if let Some(dir) = &args.nvrtc {
        return Ok(Nvrtc::load(Some(dir))?);
    }
    // Asked for by path first: once a name has not been found, it is not looked for again.
    let venv = root.join("target/nvrtc");
    if installed(&venv).is_none() && args.install {
        install(&venv)?;
    }
    if let Some(dir) = installed(&venv) {
        return Ok(Nvrtc::load(Some(&dir))?);
    }
    Nvrtc::load(None).context("`cargo xtask kernels --install` installs it into target/nvrtc")
}

/// The folder of the library in a virtual environment.
fn installed(venv: &Path) -> Option<PathBuf> {
    let pythons = std::fs::read_dir(venv.join("lib")).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let dirs = pythons.map(|python| python.join("site-packages/nvidia/cu13/lib"));
    dirs.into_iter().find(|dir| dir.is_dir())
}

fn install(venv: &Path) -> Result<()> {
    eprintln!("installing {PACKAGE} into {}", venv.display());
    run(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
    run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", PACKAGE]))?;
    ensure!(installed(venv).is_some(), "{PACKAGE} holds no library where it is expected");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source = Source {
        path: "a/b.cu",
        text: "// A kernel.\n// spills: big 16: the tile is worth it\n",
        takes: |_| true,
    };

    fn kernel(name: &str, spilled: u32) -> Resources {
        Resources { kernel: name.into(), registers: 40, spilled, ..Resources::default() }
    }

    #[test]
    fn only_budgeted_spills_pass() {
        let target = Target::Cubin(90);
        assert!(fault(&SOURCE, target, &kernel("big", 16)).is_none());
        assert!(fault(&SOURCE, target, &kernel("big", 20)).is_some());
        assert!(
            fault(&SOURCE, target, &kernel("small", 4))
                .unwrap()
                .contains("a/b.cu: small spills 4 bytes on sm_90a")
        );
    }

    #[test]
    fn static_shared_memory_beyond_what_the_host_counts_on_is_found() {
        let kernel = Resources { shared: 320, ..kernel("big", 0) };
        assert_eq!(beyond_limit(&SOURCE, &kernel, None), None);
        assert_eq!(beyond_limit(&SOURCE, &kernel, Some(320)), None);
        let fault = beyond_limit(&SOURCE, &kernel, Some(319)).unwrap();
        assert!(fault.contains("a/b.cu: big takes 320 bytes") && fault.ends_with("there is 319"), "{fault}");
    }

    #[test]
    fn architectures_are_found_by_name() {
        assert_eq!(target("sm_90a").unwrap(), Target::Cubin(90));
        let error = format!("{:#}", target("sm_91").unwrap_err());
        assert!(error.contains("sm_80") && error.contains("compute_80"), "{error}");
    }

    #[test]
    fn the_table_shows_the_largest_of_all_architectures() {
        let rows = [("a", "sm_80".into(), kernel("k", 0)), ("a", "sm_90a".into(), kernel("k", 8))];
        assert!(table(&rows, false).ends_with("| a | k | all | 40 | 0 | 0 | 8 |\n"));
        assert_eq!(table(&rows, true).lines().count(), 4);
    }
}
