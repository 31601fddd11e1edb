//! Constants that the host and a kernel both need are written once, in the kernel's file: what
//! launches it finds them in the module `kernels`, which is made here.

#[path = "build/constants.rs"]
mod constants;
#[path = "build/expr.rs"]
mod expr;
#[path = "build/lexer.rs"]
mod lexer;
#[path = "build/module.rs"]
mod module;

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).ok_or(format!("{name} is not set"));
    let kernels = variable("CARGO_MANIFEST_DIR")?.join("kernels");
    println!("cargo::rerun-if-changed=kernels");
    let mut files = Vec::new();
    for folder in std::fs::read_dir(&kernels)? {
        let folder = folder?.path();
        if folder.is_dir() {
            files.extend(sources(&folder)?);
        }
    }
    files.sort();
    std::fs::write(variable("OUT_DIR")?.join("kernels.rs"), module::module(&files)?)?;
    Ok(())
}

/// Paths below `kernels/` and texts of a folder's files.
fn sources(folder: &Path) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut files = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh")
            && let (Some(folder), Some(file)) = (name(folder), name(&path))
        {
            files.push((format!("{folder}/{file}"), std::fs::read_to_string(&path)?));
        }
    }
    Ok(files)
}
