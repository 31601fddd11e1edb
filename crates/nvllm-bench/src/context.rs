//! What workloads have at hand: the model and the settings, prompts and peers, and where their
//! measurements go.

use std::sync::Arc;

use nvllm_core::{DType, Limits, TokenId};
use nvllm_engine::Model;

use crate::display::Display;
use crate::gate::GateReport;
use crate::measure::prompt::Prompts;
use crate::measure::stepper::{self, Stepper};
use crate::measure::{self, MeasuredBackend, Measurement, Roof};
use crate::peer::{Peer, PeerSetup};
use crate::record::{Case, Cost, Record};
use crate::settings::Settings;
use crate::subject::{Factory, Subject};
use crate::{Result, machine};

/// What the workloads of one invocation share.
pub struct Context {
    pub(crate) subject: Subject,
    pub(crate) settings: Settings,
    pub(crate) gate: GateReport,
    /// New tokens in one step.
    pub(crate) step_tokens: usize,
    pub(crate) factory: Factory,
    pub(crate) display: Display,
    /// What all records share.
    pub(crate) template: Record,
    /// The checkpoint's dtype.
    pub(crate) weights: DType,
    pub(crate) records: Vec<Record>,
    pub(crate) skipped: Vec<String>,
    /// Made the first time that they are asked for.
    pub(crate) prompts: Option<Arc<Prompts>>,
    /// Started the first time that they are asked for.
    pub(crate) peers: Option<Vec<Peer>>,
}

impl Context {
    /// Opens the model.
    pub(crate) fn open(&self) -> Result<Model> {
        (self.subject.open)()
    }

    /// The prompts, made the first time.
    pub(crate) fn prompts(&mut self) -> Result<Arc<Prompts>> {
        if let Some(prompts) = &self.prompts {
            return Ok(Arc::clone(prompts));
        }
        let prompts = Arc::new(Prompts::new(&self.open()?)?);
        self.prompts = Some(Arc::clone(&prompts));
        Ok(prompts)
    }

    /// Makes the backend.
    pub(crate) fn backend(&self) -> Result<MeasuredBackend> {
        Ok(MeasuredBackend::new((self.factory)()?))
    }

    /// What makes the backend, for an engine.
    pub(crate) fn factory(&self) -> Factory {
        Arc::clone(&self.factory)
    }

    /// A contract for `seqs` sequences of `context` tokens, in steps of at most `step_tokens`.
    pub(crate) fn limits(
        &self,
        model: &Model,
        seqs: usize,
        context: usize,
        step_tokens: usize,
    ) -> Result<Limits> {
        let mut limits = Limits {
            step_tokens,
            kv_format: self.settings.kv_format,
            numerics: self.settings.numerics,
            max_in_flight: 2,
            exact_head: self.settings.exact_head,
            ..Limits::new(self.settings.activations, seqs, context)
        };
        limits.kv_bytes = stepper::kv_bytes(model, &limits, seqs, context)?;
        Ok(limits)
    }

    /// Measures the hardware's limits, now.
    pub(crate) fn roof(&self, backend: &MeasuredBackend) -> Roof {
        backend.roof((self.weights, self.settings.activations), |line| (self.display.note)(line))
    }

    /// Measures the limits again if units that take `cost` exceed those beside them, and keeps the
    /// higher ones. What still exceeds them is marked in tables.
    pub(crate) fn check_roofs(
        &self,
        backend: &MeasuredBackend,
        units: &[(Cost, &[f64])],
        roofs: &mut [Roof],
    ) {
        let exceeds = |(cost, seconds): &(Cost, &[f64])| {
            measure::share(*cost, seconds, roofs).is_some_and(|share| share > 1.0)
        };
        if units.iter().any(exceeds) {
            let again: Vec<Roof> = roofs.iter().map(|_| self.roof(backend)).collect();
            measure::higher(roofs, &again);
        }
    }

    /// Says that something is not measured, and why.
    pub(crate) fn skip(&mut self, what: &str, reason: &str) {
        let line = format!("{what} is skipped: {reason}");
        (self.display.note)(&line);
        self.skipped.push(line);
    }

    /// Whether a case of this length fits the time that one may take; if not it is skipped.
    pub(crate) fn affords(&mut self, what: &str, seconds: f64) -> bool {
        let allowed = self.settings.case_seconds;
        if seconds <= allowed {
            return true;
        }
        self.skip(
            what,
            &format!("it would take about {seconds:.0} s; {allowed:.0} s are allowed for one case"),
        );
        false
    }

    /// Bytes that are free where the backend computes.
    pub(crate) fn free_bytes(&self) -> usize {
        let device = &self.template.device;
        machine::available_bytes().filter(|_| device.driver.is_none()).unwrap_or(device.memory_bytes)
    }

    /// Whether this many bytes beside the weights fit the memory that is free; if not the case is
    /// skipped.
    pub(crate) fn fits(&mut self, what: &str, bytes: usize) -> bool {
        let free = self.free_bytes();
        // A machine that swaps measures its disk.
        let allowed = free / 5 * 4;
        if bytes <= allowed {
            return true;
        }
        let gigabytes = |bytes: usize| bytes as f64 / 1e9;
        self.skip(
            what,
            &format!(
                "it takes {:.1} GB; four fifths of what is free are {:.1} GB",
                gigabytes(bytes),
                gigabytes(allowed)
            ),
        );
        false
    }

    /// Shows where a workload is.
    pub(crate) fn progress(&self, what: &str) {
        self.display.bar.set_message(what.to_owned());
        self.display.bar.tick();
    }

    /// Records what our engine measured.
    pub(crate) fn record(
        &mut self,
        workload: &'static str,
        case: &Case,
        measured: Measurement,
    ) -> Result<()> {
        let record = self.template.clone();
        self.push(record, workload, case, measured)
    }

    /// Records what a peer measured.
    pub(crate) fn record_peer(
        &mut self,
        workload: &'static str,
        case: &Case,
        peer: &Peer,
        measured: Measurement,
    ) -> Result<()> {
        let record = Record {
            engine: peer.engine.clone(),
            dtypes: peer.dtypes.clone(),
            numerics: "its own".into(),
            correctness: Some(peer.agreement.clone()),
            ..self.template.clone()
        };
        self.push(record, workload, case, measured)
    }

    fn push(
        &mut self,
        record: Record,
        workload: &'static str,
        case: &Case,
        measured: Measurement,
    ) -> Result<()> {
        let Measurement { cost, series, values } = measured;
        let record = Record {
            workload: workload.into(),
            case: case.clone(),
            time: machine::now(),
            cost,
            series: series.into_iter().map(|(name, series)| (name.into(), series)).collect(),
            values: values.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            ..record
        };
        record.check()?;
        self.records.push(record);
        Ok(())
    }

    /// The peers, started and checked against our logits the first time; to be given
    /// [back](Self::put_peers).
    pub(crate) fn take_peers(&mut self) -> Result<Vec<Peer>> {
        if let Some(peers) = self.peers.take() {
            return Ok(peers);
        }
        let installations = std::mem::take(&mut self.settings.peers);
        if installations.is_empty() {
            return Ok(Vec::new());
        }
        let Some(dir) = self.subject.dir.clone() else {
            for installation in &installations {
                self.skip(
                    &format!("peer {}", installation.name),
                    "the model lies in memory; peers need files",
                );
            }
            return Ok(Vec::new());
        };
        let setup = PeerSetup {
            dir,
            sha256: self.subject.sha256.clone(),
            threads: self.settings.threads,
            device: self.settings.peer_device.clone(),
            scratch: self.settings.scratch.clone(),
            weights: self.template.dtypes.weights.clone(),
        };
        let (prompt, logits) = self.known_logits()?;
        let mut peers = Vec::new();
        for installation in &installations {
            self.progress(&format!("starting {}", installation.name));
            let started = Peer::start(installation, &setup).and_then(|mut peer| {
                peer.agree(&prompt, &logits)?;
                Ok(peer)
            });
            match started {
                Ok(peer) => {
                    (self.display.note)(&format!(
                        "peer {} {}: {}",
                        peer.engine.name, peer.engine.version, peer.agreement.detail
                    ));
                    peers.push(peer);
                }
                Err(reason) => self.skip(&format!("peer {}", installation.name), &reason),
            }
        }
        Ok(peers)
    }

    /// Keeps the peers for the next workload.
    pub(crate) fn put_peers(&mut self, peers: Vec<Peer>) {
        self.peers = Some(peers);
    }

    /// A prompt and our logits after it.
    fn known_logits(&mut self) -> Result<(Vec<TokenId>, Vec<f32>)> {
        const LEN: usize = 32;
        let model = self.open()?;
        let prompt = self.prompts()?.get(0, LEN.min(model.spec.max_positions));
        let limits = self.limits(&model, 1, prompt.len(), prompt.len())?;
        let backend = self.backend()?;
        let logits = Stepper::load(backend.as_ref(), &model, &limits)?.logits(&prompt)?;
        Ok((prompt, logits))
    }
}
