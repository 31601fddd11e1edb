//! Whether a case holds, and the line that says so.

use std::time::Instant;

use nvllm_conformance::{CASES, Case, Extents, ModelOp, Setting, Settings, Support};
use nvllm_core::Backend;
use serde_json::json;

use super::args::{Args, Shape};
use super::perf::Timing;

/// What came of a case.
pub(super) enum Outcome {
    /// It is right.
    Holds {
        /// Seconds that the check took.
        seconds: f64,
        /// Whether a kernel ran the op as one.
        native: bool,
        /// What else is to be said: why not, or what was checked instead.
        remark: String,
    },
    /// It was not checked, for this reason.
    Skipped {
        /// Whether a kernel runs the op as one.
        native: bool,
        /// Why.
        reason: String,
    },
    /// It is wrong.
    Fails(String),
}

impl Outcome {
    /// How it was held to the reference, if it was and it is right.
    pub(super) fn checked(&self) -> Option<String> {
        let Self::Holds { remark, .. } = self else { return None };
        let remark = if remark.is_empty() { String::new() } else { format!(", {remark}") };
        Some(format!("held to the reference op in this process{remark}"))
    }

    /// Whether a kernel runs the op as one.
    pub(super) const fn is_native(&self) -> bool {
        matches!(self, Self::Holds { native: true, .. } | Self::Skipped { native: true, .. })
    }
}

/// How many cases came to what.
#[derive(Default)]
pub(super) struct Count {
    pub failed: usize,
    held: usize,
    skipped: usize,
}

impl Count {
    pub(super) const fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Holds { .. } => self.held += 1,
            Outcome::Skipped { .. } => self.skipped += 1,
            Outcome::Fails(_) => self.failed += 1,
        }
    }

    /// Whether there was a case at all.
    pub(super) const fn any(&self) -> bool {
        self.held + self.skipped > 0
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.any() && self.failed == 0 {
            return write!(f, "no case has this name: `--list` shows all");
        }
        write!(f, "{} hold, {} are not checked, {} are wrong", self.held, self.skipped, self.failed)
    }
}

/// Prints every case that is asked for.
pub(super) fn list(args: &Args, shapes: &[Shape]) {
    for case in CASES.iter().filter(|case| args.wants_drawn(case.name)) {
        println!("{:40} drawn shapes", case.name);
    }
    for Shape { model, op, .. } in shapes {
        for extents in args.extents() {
            let name = format!("{}, {extents}", op.name);
            if args.wants(op.op().stem(), &name) {
                println!("{name:60} {model}, {} times", op.count);
            }
        }
    }
}

/// Runs a case of the suite.
pub(super) fn drawn(case: &Case, backend: &dyn Backend, trials: u32) -> Outcome {
    let start = Instant::now();
    let settings = Settings { num_trials: trials, ..Settings::default() };
    match (case.run)(backend, &settings) {
        Ok(()) => {
            let remark = format!("{trials} trials");
            Outcome::Holds { seconds: start.elapsed().as_secs_f64(), native: true, remark }
        }
        Err(mismatch) => Outcome::Fails(mismatch.to_string()),
    }
}

/// Checks an op of a model.
pub(super) fn of_model(op: &ModelOp, backend: &dyn Backend, extents: Extents, setting: Setting) -> Outcome {
    let (native, mut remark) = match op.support(backend, setting) {
        Ok(Support::Native) => (true, String::new()),
        Ok(Support::Expanded(reason)) => (false, format!("in parts: {reason}")),
        Ok(Support::Refused(reason)) => {
            return Outcome::Skipped { native: false, reason: format!("refused: {reason}") };
        }
        Err(error) => return Outcome::Fails(error.to_string()),
    };
    match op.beyond_reference(setting) {
        Ok(None) => {}
        Ok(Some(reason)) => return Outcome::Skipped { native, reason: format!("not checked: {reason}") },
        Err(error) => return Outcome::Fails(error.to_string()),
    }
    let start = Instant::now();
    match op.check(backend, extents, setting) {
        Ok(checked) => {
            if checked != extents {
                remark.push_str(if remark.is_empty() { "" } else { " " });
                remark.push_str(&format!("checked as {checked}"));
            }
            Outcome::Holds { seconds: start.elapsed().as_secs_f64(), native, remark }
        }
        Err(mismatch) => Outcome::Fails(mismatch.to_string()),
    }
}

/// Prints a case: for an op of a model its name, and its time if it was taken.
pub(super) fn show(args: &Args, name: &str, of: Option<(&str, Option<Timing>)>, outcome: &Outcome) {
    let (model, timing) = of.map_or((None, None), |(model, timing)| (Some(model), timing));
    let (word, seconds, remark) = match outcome {
        Outcome::Holds { seconds, remark, .. } => ("ok", Some(*seconds), remark),
        Outcome::Skipped { reason, .. } => ("skipped", None, reason),
        Outcome::Fails(reason) => ("WRONG", None, reason),
    };
    if args.json {
        let native = outcome.is_native();
        let timing = timing.map(|timing| timing.json());
        let line = json!({
            "case": name, "model": model, "outcome": word.to_lowercase(), "native": native,
            "remark": remark, "check_seconds": seconds, "timing": timing,
        });
        println!("{line}");
        return;
    }
    let seconds = seconds.map_or_else(String::new, |seconds| format!("{seconds:.1} s"));
    println!("{word:7} {name:54} {seconds:>7}  {remark}");
    if let Some(timing) = timing {
        println!("        {timing}");
    }
}
