//! Where `--out` writes: standard output, a device or pipe as it is, a regular file whole or not at
//! all.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use tempfile::{Builder, NamedTempFile};

/// A place that was found to be writable.
pub(crate) struct OutFile {
    /// As the user wrote it.
    name: PathBuf,
    to: To,
}

enum To {
    /// A stream of this process.
    Stream(File),
    /// Something that is no regular file: written as it comes.
    Special(PathBuf),
    /// A regular file, there or not: a temporary file beside it takes its place when it is
    /// complete.
    Regular { path: PathBuf, mode: Option<u32> },
}

/// Links that are followed to a file that is not there yet.
const MAX_LINKS: usize = 40;

impl OutFile {
    /// Finds out what `name` stands for, and that it can be written; `-` is standard output.
    /// Nothing is changed.
    pub(crate) fn check(name: &Path) -> Result<Self> {
        let to = Self::find(name).with_context(|| format!("cannot write {}", name.display()))?;
        Ok(Self { name: name.to_owned(), to })
    }

    fn find(name: &Path) -> Result<To> {
        if name == Path::new("-") {
            return Ok(To::Stream(duplicate(io::stdout().as_fd())?));
        }
        let found = match fs::metadata(name) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let path = end_of_links(name)?;
                if path.as_os_str().as_bytes().ends_with(b"/") {
                    return Err(anyhow!("there is no such directory; give a file"));
                }
                temporary(&path, 0o666)?;
                return Ok(To::Regular { path, mode: None });
            }
            Err(e) => return Err(e.into()),
        };
        // A name of a stream (/dev/stdout): opened again it would be written from its start,
        // replaced it would be lost.
        for stream in [io::stdout().as_fd(), io::stderr().as_fd()] {
            let file = duplicate(stream)?;
            if same(&file.metadata()?, &found) {
                return Ok(To::Stream(file));
            }
        }
        if found.is_dir() {
            return Err(anyhow!("it is a directory; give a file"));
        }
        if !found.is_file() {
            // A pipe without a reader would keep us waiting here.
            if !found.file_type().is_fifo() {
                OpenOptions::new().write(true).open(name)?;
            }
            return Ok(To::Special(name.to_owned()));
        }
        // A file that may not be written is not replaced either, though its directory would allow
        // it.
        OpenOptions::new().write(true).open(name)?;
        let (path, mode) = (fs::canonicalize(name)?, found.permissions().mode() & 0o7777);
        temporary(&path, mode)?;
        Ok(To::Regular { path, mode: Some(mode) })
    }

    /// Writes all parts, one after the other.
    pub(crate) fn write(self, parts: &[&[u8]]) -> Result<()> {
        let done = match self.to {
            To::Stream(mut file) => write_parts(&mut file, parts),
            To::Special(path) => {
                OpenOptions::new().write(true).open(path).and_then(|mut file| write_parts(&mut file, parts))
            }
            To::Regular { path, mode } => replace(&path, mode, parts),
        };
        done.with_context(|| format!("cannot write {}", self.name.display()))
    }
}

fn write_parts(file: &mut File, parts: &[&[u8]]) -> io::Result<()> {
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.flush()
}

fn replace(path: &Path, mode: Option<u32>, parts: &[&[u8]]) -> io::Result<()> {
    let mut temporary = temporary(path, mode.unwrap_or(0o666))?;
    write_parts(temporary.as_file_mut(), parts)?;
    if let Some(mode) = mode {
        // Exactly what the file had: creation takes the umask away.
        temporary.as_file().set_permissions(Permissions::from_mode(mode))?;
    }
    temporary.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// A file beside `path` with the rights that the umask leaves of `mode`; gone when it is dropped.
fn temporary(path: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::metadata(dir)?;
    let file = Builder::new().prefix(".nvllm-").permissions(Permissions::from_mode(mode)).tempfile_in(dir);
    // The library names its file, which nobody asked for.
    file.map_err(|e| io::Error::from(e.kind()))
}

/// The path at the end of a chain of symbolic links that leads to nothing yet.
fn end_of_links(name: &Path) -> Result<PathBuf> {
    let mut path = name.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            // An absolute target takes the place of all of it.
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(anyhow!("too many symbolic links"))
}

fn duplicate(stream: BorrowedFd<'_>) -> io::Result<File> {
    Ok(stream.try_clone_to_owned()?.into())
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}
