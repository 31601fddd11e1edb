//! The directory that a new checkpoint is written into.

use std::io;
use std::path::Path;

use serde_json::Value;

use crate::{EngineError, Result};

pub(crate) fn failed(path: &Path, cause: &io::Error) -> EngineError {
    EngineError::WriteFile { path: path.to_path_buf(), problem: cause.to_string() }
}

/// Makes the directory. What is there already is nobody's to overwrite.
pub(crate) fn make_empty(out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|cause| failed(out, &cause))?;
    let first = std::fs::read_dir(out).map_err(|cause| failed(out, &cause))?.next();
    match first {
        None => Ok(()),
        Some(entry) => {
            let name = entry.map(|entry| entry.file_name()).unwrap_or_default();
            let problem = format!("the directory is not empty; give a new one (it holds {})", name.display());
            Err(EngineError::WriteFile { path: out.to_path_buf(), problem })
        }
    }
}

/// Writes a JSON file of the directory.
pub(crate) fn write_json(out: &Path, file: &str, value: &Value) -> Result<()> {
    let path = out.join(file);
    std::fs::write(&path, format!("{value:#}\n")).map_err(|cause| failed(&path, &cause))
}
