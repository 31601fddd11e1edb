//! `cargo xtask golden`: how far every backend is from Hugging Face on every fixture, as a table.
//!
//! The tests hold these numbers to tolerances; this shows them.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use nvllm_core::{Activations, Backend, Reference};
use nvllm_tests::{FIXTURES, Fixture, Rounded};

use crate::wgpu;

/// What to show.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Backends; the reference and the CPU if none is named
    #[arg(long, value_enum, num_args = 1.., default_values = ["reference", "cpu"])]
    backend: Vec<Name>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Reference,
    Cpu,
    Cuda,
    Wgpu,
}

impl Name {
    const fn text(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
        }
    }

    fn open(self) -> Result<Box<dyn Backend>> {
        Ok(match self {
            Self::Reference => Box::new(Reference::default()),
            Self::Cpu => Box::new(nvllm_tests::cpu()),
            Self::Cuda => Box::new(nvllm_tests::cuda(true).context("--backend cuda")?),
            Self::Wgpu => wgpu::open(None)?,
        })
    }
}

/// A backend under its name.
type Named = (&'static str, Box<dyn Backend>);

/// Prints the tables. Fails if f32 activations miss a tolerance or a greedy run, or bf16
/// activations what the tests allow.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    let open = |name: &Name| Ok((name.text(), name.open()?));
    let backends: Vec<Named> = args.backend.iter().map(open).collect::<Result<_>>()?;
    let exact = in_f32(&backends);
    println!();
    let rounded = in_bf16(&backends);
    Ok(if exact && rounded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The table of f32 activations, and whether all of it holds.
fn in_f32(backends: &[Named]) -> bool {
    println!("f32 activations against Hugging Face's f32: largest difference of logits and hidden states.\n");
    println!("| fixture | backend | logits | hidden | allowed | greedy runs equal |");
    println!("|---|---|---|---|---|---|");
    let mut holds = true;
    for (name, tolerance) in FIXTURES {
        let fixture = Fixture::load(name);
        let expected = fixture.expected();
        for (backend_name, backend) in backends {
            let d = fixture.run(backend.as_ref(), "config.json", Activations::F32).distance(&expected);
            holds &= d.within(tolerance);
            let (logits, hidden) = (d.logits, d.hidden);
            println!(
                "| {name} | {backend_name} | {logits:.1e} | {hidden:.1e} | {tolerance:.0e} | {}/{} |",
                d.num_equal, d.num_greedy
            );
        }
    }
    holds
}

/// The table of bf16 activations, and whether all of it holds.
fn in_bf16(backends: &[Named]) -> bool {
    println!(
        "bf16 activations: with the ops as recorded, to the reference with the same rounding points; and with all that is fused, to"
    );
    println!("f32. Allowed are the distance of that reference to f32, and twice that distance.\n");
    println!(
        "| fixture | backend | logits to bf16 reference | hidden | allowed | logits to f32 | hidden | allowed | greedy as f32 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut holds = true;
    for (name, _) in FIXTURES {
        let fixture = Fixture::load(name);
        for (backend_name, backend) in backends {
            let rounded = fixture.rounded(backend.as_ref());
            holds &= rounded.holds();
            let Rounded { apart, rounding, off } = rounded;
            println!(
                "| {name} | {backend_name} | {:.1e} | {:.1e} | {:.1e} | {:.1e} | {:.1e} | {:.1e} | {}/{} |",
                apart.logits,
                apart.hidden,
                rounding.logits,
                off.logits,
                off.hidden,
                2.0 * rounding.logits,
                off.num_equal,
                off.num_greedy
            );
        }
    }
    holds
}
