//! The command line: what is ours, and what is `nvllm bench`'s.

use std::path::PathBuf;

use nvllm_core::Numerics;

/// What to measure: own flags first, then workloads and flags of `nvllm bench`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench --quick
  cargo xtask bench --config qwen3-1.7b decode prefill --backend cuda --numerics fast
  cargo xtask bench ops --model DIR --records out/ops.jsonl")]
pub(crate) struct Args {
    /// Shape of a model with random weights, made under out/bench if it is not there
    #[arg(long, default_value = "qwen3-0.6b")]
    pub(super) config: String,
    /// A Python in which peers may be installed; may be given several times
    #[arg(long, default_value = "python3")]
    pub(super) peer_python: Vec<PathBuf>,
    /// Measure without peers
    #[arg(long)]
    pub(super) no_peers: bool,
    /// The source's commit where there is no repository to ask, with `-dirty` if its files differed
    #[arg(long)]
    pub(super) commit: Option<String>,
    /// Workloads and flags of `nvllm bench`; --list and its --help name them. Without --model the
    /// weights are random, without --backend it is the CPU
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NVLLM BENCH")]
    pub(super) rest: Vec<String>,
}

impl Args {
    /// The value of a flag of `nvllm bench`.
    pub(super) fn value(&self, flag: &str) -> Option<&str> {
        self.rest.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(flag)? {
            "" => self.rest.get(at + 1).map(String::as_str),
            rest => rest.strip_prefix('='),
        })
    }

    /// Whether a flag of `nvllm bench` is given.
    pub(super) fn has(&self, flag: &str) -> bool {
        self.rest
            .iter()
            .any(|word| word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
    }

    /// Whether a model on disk is measured, and not random weights.
    pub(super) fn has_model(&self) -> bool {
        self.has("--model") || self.has("-m")
    }

    /// The backend's name.
    pub(super) fn backend(&self) -> &str {
        self.value("--backend").unwrap_or("cpu")
    }

    /// What is promised about the order of sums.
    pub(super) fn numerics(&self) -> Numerics {
        let fast = self.value("--numerics") == Some(Numerics::Fast.name());
        if fast { Numerics::Fast } else { Numerics::Invariant }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn of(line: &str) -> Args {
        Cli::parse_from(line.split(' ')).args
    }

    #[test]
    fn own_flags_come_first_and_the_rest_is_passed_on() {
        let args = of("bench --no-peers --config a decode --quick --backend=cuda --numerics fast");
        assert!(args.no_peers && args.config == "a" && args.rest[..2] == ["decode", "--quick"]);
        assert_eq!((args.backend(), args.numerics()), ("cuda", Numerics::Fast));
        assert!(args.has("--quick") && !args.has("--quic") && !args.has_model());
        assert!(of("bench -m DIR").has_model() && of("bench --model=DIR").has_model());
    }

    #[test]
    fn alone_it_measures_the_cpu() {
        let args = of("bench");
        assert_eq!((args.backend(), args.numerics(), args.rest.len()), ("cpu", Numerics::Invariant, 0));
    }
}
