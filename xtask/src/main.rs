//! Development commands of nvLLM: `cargo xtask --help`.
//!
//! What a contributor runs beside the compiler and the tests: the checks that CI runs, the rules of
//! the house as code ([`tidy`]), models made of random weights, tables of errors, and measurements.
//! It is a program and not a set of shell scripts so that it shares the types of what it checks and
//! runs wherever the project builds.
//!
//! Deliberately absent: anything a user of nvLLM needs. That belongs to the binary `nvllm`.

mod bench;
mod bundle;
mod ci;
mod dist;
mod golden;
mod kernels;
mod model;
mod new_model;
mod ops;
mod process;
mod report;
mod synth;
mod tidy;
mod wgpu;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development commands of nvLLM", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures through `nvllm bench`, and keeps the raw record of every figure
    Bench(Box<bench::Args>),
    /// Puts what tests and measures a GPU into .bundle, for a machine without Rust
    Bundle(bundle::Args),
    /// Runs what CI runs: formatting, lints, documentation, tidy, and all tests last
    Ci,
    /// Builds what people install into .dist: one program, as an archive and as a wheel
    Dist,
    /// Prints every golden fixture's worst errors, by backend and activation dtype
    Golden(golden::Args),
    /// Compiles every CUDA kernel for every architecture, without a GPU, and shows what each takes
    Kernels(kernels::Args),
    /// Makes a crate for a model family from the template, and registers it
    NewModel(new_model::Args),
    /// Holds a backend to the reference one op at a time, and times it
    Ops(Box<ops::Args>),
    /// Renders tables and charts from the records into README and docs
    Report(report::Args),
    /// Writes a model directory with random weights of a real model's shape
    Synth(synth::Args),
    /// Checks the rules of the house: crate arrows, budgets, unsafe code, names of ops, wording
    Tidy,
}

/// The root of the repository; in a bundle, which has none, the current directory.
fn repo_root() -> PathBuf {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository");
    if built_from.exists() { built_from.into() } else { PathBuf::from(".") }
}

fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Bench(args) => bench::command(&repo_root(), args),
        Command::Bundle(args) => bundle::command(&repo_root(), args),
        Command::Ci => ci::command(&repo_root()),
        Command::Dist => dist::command(&repo_root()),
        Command::Golden(args) => golden::command(args),
        Command::Kernels(args) => kernels::command(&repo_root(), args),
        Command::NewModel(args) => new_model::command(&repo_root(), args),
        Command::Ops(args) => ops::command(&repo_root(), args),
        Command::Report(args) => report::command(&repo_root(), args),
        Command::Synth(args) => synth::command(&repo_root(), args),
        Command::Tidy => tidy::command(&repo_root()),
    }
}

fn main() -> ExitCode {
    run(&Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
