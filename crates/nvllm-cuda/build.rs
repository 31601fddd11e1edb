//! Constants that the host and a kernel both need are written once, in the kernel's file: what
//! launches it finds them in the module `kernels`, which is made here.

#[path = "build/constants.rs"]
mod constants;
#[path = "build/expr.rs"]
mod expr;
#[path = "build/files.rs"]
mod files;
#[path = "build/lexer.rs"]
mod lexer;
#[path = "build/module.rs"]
mod module;

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).ok_or(format!("{name} is not set"));
    let kernels = variable("CARGO_MANIFEST_DIR")?.join("kernels");
    println!("cargo::rerun-if-changed=kernels");
    let text = module::module(&files::files(&kernels)?)?;
    std::fs::write(variable("OUT_DIR")?.join("kernels.rs"), text)?;
    Ok(())
}
