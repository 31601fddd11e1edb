//! Flags that vLLM has and this server has not: taken where they change nothing, refused by name
//! where they would.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use nvllm_core::Activations;

use crate::words::BadArgument;

/// Switches that change nothing here. Tools are always there, and those of a request whose
/// `tool_choice` is none never are.
const IGNORED_SWITCHES: [&str; 9] = [
    "enable-auto-tool-choice",
    "exclude-tools-when-tool-choice-none",
    "enable-reasoning",
    "trust-remote-code",
    "disable-log-stats",
    "enforce-eager",
    "enable-chunked-prefill",
    "enable-log-requests",
    "disable-uvicorn-access-log",
];

/// Flags with a value that changes nothing here. Requests without a seed draw one each.
const IGNORED_VALUES: [&str; 2] = ["seed", "uvicorn-log-level"];

/// Flags of which only one value is what this server does.
const FIXED: [(&str, &str, &str); 5] = [
    ("tensor-parallel-size", "1", "one server runs on one device: start one for each, behind a router"),
    ("pipeline-parallel-size", "1", "one server runs on one device: use a model that fits it"),
    ("data-parallel-size", "1", "start one server for each device, behind a router"),
    ("tokenizer-mode", "auto", "the tokenizer is the model's"),
    ("load-format", "auto", "weights are read from safetensors"),
];

/// Flags for what does not exist here: whether they take a value, and what to do.
const REFUSED: [(&str, bool, &str); 7] = [
    ("enable-lora", false, "LoRA adapters cannot be served: merge them into the model"),
    ("lora-modules", true, "LoRA adapters cannot be served: merge them into the model"),
    ("quantization", true, "weights run as they are saved: leave it out"),
    ("speculative-config", true, "there is no speculative decoding: leave it out"),
    ("kv-transfer-config", true, "prefill and decoding run in one server: leave it out"),
    ("tokenizer", true, "the tokenizer is the model's: leave it out"),
    ("root-path", true, "routes are at the root: have the proxy in front remove its prefix"),
];

/// What was given of them.
#[derive(Clone, Copy, Default)]
pub(crate) struct VllmFlags {
    dtype: Option<Activations>,
}

impl VllmFlags {
    /// What `--dtype` asks for.
    pub(super) fn dtype(self) -> Option<Activations> {
        self.dtype
    }
}

/// vLLM's `--dtype`, as what it means here.
fn dtype(text: &str) -> Result<Option<Activations>, BadArgument> {
    match text {
        "auto" => Ok(None),
        "bfloat16" | "bf16" => Ok(Some(Activations::Bf16)),
        "float32" | "float" | "f32" => Ok(Some(Activations::F32)),
        other => Err(BadArgument(format!(
            "--dtype {other} is not there: use auto, bfloat16 or float32 (as with --activations)"
        ))),
    }
}

fn value(name: &'static str) -> Arg {
    Arg::new(name).long(name).hide(true).action(ArgAction::Set).allow_hyphen_values(true)
}

fn switch(name: &'static str) -> Arg {
    Arg::new(name).long(name).hide(true).action(ArgAction::SetTrue)
}

impl Args for VllmFlags {
    fn augment_args(command: Command) -> Command {
        let names = FIXED.iter().map(|(name, ..)| value(name));
        let fixed = names.chain(IGNORED_VALUES.iter().map(|name| value(name)));
        let refused = REFUSED.iter().map(|(name, takes, _)| if *takes { value(name) } else { switch(name) });
        let command = command.args(fixed).args(refused).arg(value("dtype"));
        let command = command.args(IGNORED_SWITCHES.iter().map(|name| switch(name)));
        let short = |command: Command, name: &'static str, alias: &'static str| {
            command.mut_arg(name, |arg| arg.alias(alias))
        };
        short(command, "tensor-parallel-size", "tp")
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for VllmFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let refuse = |message: String| clap::Error::raw(ErrorKind::ValueValidation, message + "\n");
        let text = |name: &str| matches.try_get_one::<String>(name).ok().flatten();
        for (name, only, advice) in FIXED {
            if let Some(given) = text(name).filter(|given| *given != only) {
                return Err(refuse(format!("--{name} {given} is not there: {advice}")));
            }
        }
        for (name, takes_value, advice) in REFUSED {
            let is_given = if takes_value { text(name).is_some() } else { matches.get_flag(name) };
            if is_given {
                return Err(refuse(format!("--{name} is not there: {advice}")));
            }
        }
        let dtype = text("dtype").map(|text| dtype(text)).transpose().map_err(|e| refuse(e.to_string()))?;
        Ok(Self { dtype: dtype.flatten() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
