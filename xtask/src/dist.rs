//! `cargo xtask dist`: what people install, in `.dist`.
//!
//! One program with the demo model and the CUDA kernels inside, as an archive, and as a wheel that
//! puts it on the path (`pip install`, `uvx`); the checksums of both; the folder that the
//! Dockerfile copies. The program links the C library alone, and the wheel's tag says which version
//! of it is the oldest that will do: the one of the machine that builds.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nvllm_bench::files;
use nvllm_cuda::compile::Target;
use sha2::{Digest as _, Sha256};
use zip::write::SimpleFileOptions;

use crate::bundle::{build, strip};
use crate::kernels;
use crate::process::run;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How the program is built: all that it can have inside.
const PROGRAM: [&str; 6] = ["build", "--release", "--package", "nvllm", "--features", "embedded-kernels"];
const SUMMARY: &str = "An LLM inference engine in one binary, with an OpenAI-compatible server";

/// Builds the program and packs it.
pub(crate) fn command(root: &Path) -> Result<ExitCode> {
    let dist = root.join(".dist");
    if dist.exists() {
        std::fs::remove_dir_all(&dist).with_context(|| format!("cannot clear {}", dist.display()))?;
    }
    let name = format!("nvllm-{VERSION}-{}-linux", std::env::consts::ARCH);
    let folder = dist.join(&name);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    kernels::ensure_archive(root, &Target::ALL)?;
    let program = folder.join("nvllm");
    strip(Path::new(&build(root, &PROGRAM, "nvllm")?), &program)?;
    for file in ["LICENSE", "README.md"] {
        let copied = std::fs::copy(root.join(file), folder.join(file));
        copied.with_context(|| format!("cannot copy {file}"))?;
    }
    let archive = dist.join(format!("{name}.tar.xz"));
    run(Command::new("tar").arg("-C").arg(&dist).arg("-cJf").arg(&archive).arg(&name))?;
    let wheel = wheel(&dist, &program, &std::fs::read_to_string(root.join("README.md"))?)?;
    let files = [archive, wheel];
    let mut sums = String::new();
    for file in &files {
        sums += &format!("{}  {}\n", files::sha256_files(std::slice::from_ref(file))?, base_name(file));
    }
    std::fs::write(dist.join("SHA256SUMS"), &sums).context("cannot write SHA256SUMS")?;
    print!("{sums}");
    println!("in {}; `xtask/try-dist.sh` installs both in fresh root file systems", dist.display());
    Ok(ExitCode::SUCCESS)
}

fn base_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Writes the wheel: the program as a script, which pip puts beside the interpreter.
fn wheel(dist: &Path, program: &Path, readme: &str) -> Result<PathBuf> {
    let (major, minor) = oldest_libc(program)?;
    let tag = format!("py3-none-manylinux_{major}_{minor}_{}", std::env::consts::ARCH);
    let path = dist.join(format!("nvllm-{VERSION}-{tag}.whl"));
    let info = format!("nvllm-{VERSION}.dist-info");
    let metadata = format!(
        "Metadata-Version: 2.1\nName: nvllm\nVersion: {VERSION}\nSummary: {SUMMARY}\nLicense: Apache-2.0\n\
         Requires-Python: >=3.8\nDescription-Content-Type: text/markdown\n\n{readme}"
    );
    let about = format!("Wheel-Version: 1.0\nGenerator: nvllm\nRoot-Is-Purelib: false\nTag: {tag}\n");
    let script = format!("nvllm-{VERSION}.data/scripts/nvllm");
    let program = std::fs::read(program).context("cannot read the program")?;
    let files = [
        (script, program, 0o755),
        (format!("{info}/METADATA"), metadata.into_bytes(), 0o644),
        (format!("{info}/WHEEL"), about.into_bytes(), 0o644),
    ];
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut zip = zip::ZipWriter::new(file);
    let mut record = String::new();
    for (name, bytes, mode) in &files {
        record +=
            &format!("{name},sha256={},{}\n", URL_SAFE_NO_PAD.encode(Sha256::digest(bytes)), bytes.len());
        add(&mut zip, name, bytes, *mode)?;
    }
    record += &format!("{info}/RECORD,,\n");
    add(&mut zip, &format!("{info}/RECORD"), record.as_bytes(), 0o644)?;
    zip.finish().context("cannot end the wheel")?;
    Ok(path)
}

fn add(zip: &mut zip::ZipWriter<File>, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .unix_permissions(mode);
    zip.start_file(name, options).with_context(|| format!("cannot add {name}"))?;
    zip.write_all(bytes).with_context(|| format!("cannot add {name}"))
}

/// The newest version of the C library that the program's symbols ask for: the oldest that it runs
/// with.
fn oldest_libc(program: &Path) -> Result<(u32, u32)> {
    let output = Command::new("readelf").arg("-V").arg(program).output().context("cannot start readelf")?;
    ensure!(output.status.success(), "readelf -V {} failed", program.display());
    let text = String::from_utf8_lossy(&output.stdout);
    newest_glibc(&text).with_context(|| format!("{} asks for no glibc", program.display()))
}

fn newest_glibc(versions: &str) -> Option<(u32, u32)> {
    let named = versions.split("GLIBC_").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
        let mut numbers = rest[..end].split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    named.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_decides() {
        let text =
            "  0x0010: Name: GLIBC_2.9  Flags: none\n Name: GLIBC_2.34 \n Name: GLIBC_2.3.4\n GLIBC_PRIVATE";
        assert_eq!(newest_glibc(text), Some((2, 34)));
        assert_eq!(newest_glibc("Name: GCC_3.0"), None);
    }

    #[test]
    fn a_wheel_is_a_zip_whose_record_names_every_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = wheel(dir.path(), &std::env::current_exe().unwrap(), "# readme").unwrap();
        let mut zip = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
        let names: Vec<String> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
        let mut record = String::new();
        let entry = format!("nvllm-{VERSION}.dist-info/RECORD");
        std::io::Read::read_to_string(&mut zip.by_name(&entry).unwrap(), &mut record).unwrap();
        for name in &names {
            assert!(record.lines().any(|line| line.starts_with(&format!("{name},"))), "{name}: {record}");
        }
        let script = zip.by_name(&format!("nvllm-{VERSION}.data/scripts/nvllm")).unwrap();
        assert_eq!(script.unix_mode().unwrap() & 0o777, 0o755);
    }
}
