//! `nvllm completions`: a shell's completion script.

use std::io::Write as _;

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

#[derive(Args)]
#[command(after_help = "Examples:
  nvllm completions bash > ~/.local/share/bash-completion/completions/nvllm
  nvllm completions fish > ~/.config/fish/completions/nvllm.fish")]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

/// Writes the script for `program` to standard output.
pub(super) fn run(args: &Completions, mut program: clap::Command) -> Result<()> {
    let name = program.get_name().to_owned();
    // By way of memory: the generator panics where its output cannot be written.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}
