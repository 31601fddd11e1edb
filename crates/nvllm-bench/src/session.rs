//! One invocation: its checks, and its workloads one after another.

use std::collections::BTreeMap;
use std::path::Path;

use crate::context::Context;
use crate::display::Display;
use crate::gate::Gate;
use crate::measure::stepper;
use crate::record::{self, Case, Dtypes, Engine, OURS, Record, SCHEMA};
use crate::settings::Settings;
use crate::subject::{Factory, Subject};
use crate::workload::Workload;
use crate::{BenchError, Result, files, machine, profile};

/// One invocation. Its records share a run and a passed correctness check.
pub struct Session {
    context: Context,
}

impl Session {
    /// Checks the backend's correctness, then gathers the facts that all records share.
    ///
    /// Errors if the backend cannot be made, computes wrongly, or the model cannot be opened.
    pub fn start(
        subject: Subject,
        factory: Factory,
        gate: &Gate,
        settings: Settings,
        display: Display,
    ) -> Result<Self> {
        let info = factory()?.info();
        let host = machine::host(info.memory_bytes);
        if let Some(load) = host.load_before.filter(|load| *load > 0.5) {
            (display.note)(&format!(
                "the load average is {load}: others use this machine, and rates are what they left over"
            ));
        }
        display.bar.set_message("checking correctness");
        (display.note)("checking first that the backend computes what it should: some seconds on a CPU");
        let gate = gate.check(&factory, (settings.activations, settings.numerics), settings.quick)?;
        if !gate.correctness.passed {
            return Err(BenchError::Incorrect { detail: gate.correctness.detail });
        }
        let model = (subject.open)()?;
        let (weights, weights_name) = stepper::weight_dtype(&model)?;
        let time = machine::now();
        let step_tokens = settings.step_tokens.unwrap_or(info.step_tokens);
        let template = Record {
            schema: SCHEMA,
            workload: String::new(),
            case: Case::default(),
            run: format!("{time}-{}", std::process::id()),
            time,
            engine: Engine {
                name: OURS.into(),
                version: settings.version.clone(),
                command: None,
                detail: format!("{}, at most {} tokens a step", info.device, step_tokens),
            },
            source: settings.source.clone(),
            host,
            device: info.into(),
            model: record::Model {
                name: subject.name.clone(),
                num_parameters: model.spec.num_parameters(),
                sha256: subject.sha256.clone(),
                seed: subject.seed,
            },
            dtypes: Dtypes {
                weights: weights_name,
                activations: settings.activations.dtype().to_string(),
                kv: settings.kv_format.to_string(),
            },
            numerics: settings.numerics.name().into(),
            threads: settings.threads,
            seed: 0,
            flags: settings.flags.iter().map(|flag| files::base_name(flag)).collect(),
            cost: None,
            series: BTreeMap::new(),
            values: BTreeMap::new(),
            correctness: Some(gate.correctness.clone()),
        };
        let context = Context {
            subject,
            settings,
            gate,
            step_tokens,
            factory,
            display,
            template,
            weights,
            records: Vec::new(),
            skipped: Vec::new(),
            prompts: None,
            peers: None,
        };
        Ok(Self { context })
    }

    /// Runs the workloads, one after another, and appends the records of each to the file at `path`
    /// once it is done.
    ///
    /// Errors if one fails or a record is refused; what was appended before stays.
    pub fn run(&mut self, workloads: &[&dyn Workload], path: &Path) -> Result<()> {
        let mut result = Ok(());
        for workload in workloads {
            self.context.display.bar.set_message(workload.name());
            let first = self.context.records.len();
            let ran = workload.run(&mut self.context);
            result = record::append(path, &self.context.records[first..]).and(ran);
            if result.is_err() {
                break;
            }
            self.context.display.bar.inc(1);
        }
        self.context.display.bar.finish_and_clear();
        result
    }

    /// Everything measured so far.
    pub fn records(&self) -> &[Record] {
        &self.context.records
    }

    /// What was not measured, with reasons.
    pub fn skipped(&self) -> &[String] {
        &self.context.skipped
    }

    /// The name that all records share.
    pub fn run_id(&self) -> &str {
        &self.context.template.run
    }

    /// Writes a trace of one prompt and some decoded tokens to `path`. Timing every op costs a
    /// little: no record is made of it.
    ///
    /// Errors if the backend cannot time ops, and if the file cannot be written.
    pub fn profile(&mut self, path: &Path) -> Result<()> {
        profile::write(&mut self.context, path)
    }

    /// What workloads have at hand.
    pub(crate) const fn context(&self) -> &Context {
        &self.context
    }
}
