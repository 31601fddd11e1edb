//! What `/set` changes: how answers are drawn and what form they have.

use std::fmt::Display;
use std::str::FromStr;

use anyhow::{Result, anyhow, bail};

use crate::flags::SamplingArgs;
use crate::flags::number::OrNone;
use crate::words::BadArgument;

/// The settings of a conversation, from the command line at first.
#[derive(Clone)]
pub(super) struct Settings {
    pub sampling: SamplingArgs,
    /// Whether answers are JSON objects.
    pub json: bool,
    /// Whether the first answer to a message must call a tool.
    pub must_call: bool,
}

/// The names that `/set` knows here, in the order in which they are listed.
const NAMES: [&str; 8] =
    ["temperature", "top_k", "top_p", "min_p", "seed", "max_tokens", "json", "tool_choice"];

impl Settings {
    pub(super) fn new(sampling: SamplingArgs) -> Self {
        Self { sampling, json: false, must_call: false }
    }

    /// Sets `name`; `default` takes back what was set.
    ///
    /// Errors if there is no such setting or the value is not one of its. Nothing is changed then.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let mut changed = self.clone();
        let sampling = &mut changed.sampling;
        match name {
            "temperature" => sampling.temperature = parsed(name, value)?,
            "top_k" => sampling.top_k = parsed(name, value)?,
            "top_p" => sampling.top_p = parsed(name, value)?,
            "min_p" => sampling.min_p = parsed(name, value)?,
            "seed" => sampling.seed = parsed(name, value)?,
            "max_tokens" => sampling.max_tokens = parsed(name, value)?,
            "json" => changed.json = is_on(name, value)?,
            "tool_choice" => {
                changed.must_call = match value {
                    "required" => true,
                    "auto" | "default" => false,
                    _ => bail!("/set tool_choice is {value:?}; use required, or auto"),
                }
            }
            _ => bail!("there is no setting {name:?}; use one of {}, system, think", NAMES.join(", ")),
        }
        // Told by the flag's name, which a user of /set does not see.
        changed.sampling.check().map_err(|BadArgument(problem)| {
            let set = |problem: String, name: &&str| {
                problem.replace(&format!("--{}", name.replace('_', "-")), &format!("/set {name}"))
            };
            anyhow!("{}", NAMES.iter().fold(problem, set))
        })?;
        *self = changed;
        Ok(())
    }

    /// A line for each setting.
    pub(super) fn lines(&self) -> Vec<String> {
        let sampling = &self.sampling;
        let switch = |on| if on { "on" } else { "off" }.to_owned();
        let values = [
            shown(sampling.temperature),
            shown(sampling.top_k.map(|OrNone(k)| k.map_or_else(|| "-1".into(), |k| k.to_string()))),
            shown(sampling.top_p),
            shown(sampling.min_p),
            shown(
                sampling.seed.map(|OrNone(seed)| seed.map_or_else(|| "-1".into(), |seed| seed.to_string())),
            ),
            shown(sampling.max_tokens.map(|OrNone(n)| n.map_or_else(|| "-1".into(), |n| n.to_string()))),
            switch(self.json),
            if self.must_call { "required" } else { "auto" }.to_owned(),
        ];
        NAMES.iter().zip(values).map(|(name, value)| format!("{name} {value}")).collect()
    }
}

/// `on` or `off`.
pub(super) fn is_on(name: &str, value: &str) -> Result<bool> {
    match value {
        "on" | "true" => Ok(true),
        "off" | "false" | "default" => Ok(false),
        _ => bail!("/set {name} is {value:?}; use on or off"),
    }
}

fn parsed<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<Option<T>> {
    if value == "default" {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|e| anyhow!("/set {name} is {value:?}: {e}"))
}

fn shown(value: Option<impl Display>) -> String {
    value.map_or_else(|| "default".into(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn settings() -> Settings {
        Settings::new(Flags::try_parse_from(["chat", "--top-p", "0.5"]).unwrap().sampling)
    }

    #[test]
    fn what_is_set_is_listed_and_default_takes_it_back() {
        let mut settings = settings();
        for (name, value) in [
            ("temperature", "0.25"),
            ("top_k", "-1"),
            ("top_p", "default"),
            ("seed", "7"),
            ("max_tokens", "12"),
            ("json", "on"),
            ("tool_choice", "required"),
        ] {
            settings.set(name, value).unwrap();
            assert!(settings.lines().contains(&format!("{name} {value}")), "{:?}", settings.lines());
        }
        assert_eq!((settings.sampling.top_p, settings.json, settings.must_call), (None, true, true));
    }

    #[test]
    fn a_bad_value_is_named_and_changes_nothing() {
        for (name, value, words) in [
            ("temperature", "hot", "/set temperature is \"hot\""),
            ("temperature", "-1", "temperature is -1"),
            ("top_p", "2", "top_p is 2"),
            ("max_tokens", "-5", "/set max_tokens is \"-5\""),
            ("json", "maybe", "on or off"),
            ("tool_choice", "never", "required, or auto"),
            ("colour", "red", "no setting \"colour\"; use one of temperature, "),
        ] {
            let mut settings = settings();
            let before = settings.lines();
            let error = settings.set(name, value).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert_eq!(settings.lines(), before);
        }
    }
}
