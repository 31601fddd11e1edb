//! A device that fails while it serves: every request in flight ends with the reason, nothing
//! hangs, and later requests are told too.

use nvllm_core::{CoreError, DType, Executable, HostTensor, Result, Step, StepOutput, Tensor, Ticket};
use nvllm_engine::{Engine, FinishReason, Finished, Health, LoadOptions, Request};

use crate::support::{self, Hooks, end, in_time, options, request};

/// The call that fails, counted from 1.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Submit(usize),
    Collect(usize),
    Panic(usize),
    /// The rows of logits of a step cannot be copied to the host.
    Logits(usize),
}

const ILLEGAL: &str = "an illegal address was read";

/// A row whose copy fails.
struct Unreadable;

impl Tensor for Unreadable {
    fn shape(&self) -> &[usize] {
        &[1]
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn to_host(&self) -> Result<HostTensor> {
        Err(CoreError::Device { backend: "failing".into(), problem: ILLEGAL.into() })
    }
}

/// A device that fails once, or for good from then on.
#[derive(Clone)]
struct Failing {
    fault: Fault,
    for_good: bool,
    calls: [usize; 2],
}

impl Failing {
    /// Counts a call of `kind`, 0 for submit and 1 for collect, and fails if its time has come.
    fn call(&mut self, kind: usize) -> Result<()> {
        self.calls[kind] += 1;
        let (at, of) = match self.fault {
            Fault::Submit(at) => (at, 0),
            Fault::Collect(at) | Fault::Panic(at) => (at, 1),
            Fault::Logits(_) => return Ok(()),
        };
        let now = kind == of && self.calls[kind] == at;
        let panics = now && matches!(self.fault, Fault::Panic(_));
        assert!(!panics, "index 7 is out of bounds");
        if now || self.for_good && self.calls[of] >= at {
            return Err(CoreError::Device { backend: "failing".into(), problem: ILLEGAL.into() });
        }
        Ok(())
    }
}

impl Hooks for Failing {
    fn submit(&mut self, inner: &mut dyn Executable, step: &Step) -> Result<Ticket> {
        self.call(0)?;
        inner.submit(step)
    }

    fn collect(&mut self, inner: &mut dyn Executable, ticket: Ticket) -> Result<StepOutput> {
        let output = inner.collect(ticket);
        self.call(1)?;
        let mut output = output?;
        if matches!(self.fault, Fault::Logits(at) if at == self.calls[1]) {
            let logits = output.rows.iter_mut().filter_map(|row| row.values.as_mut());
            logits.for_each(|row| *row = Box::new(Unreadable));
        }
        Ok(output)
    }

    fn failure(&self) -> Option<String> {
        let (at, calls) = match self.fault {
            Fault::Submit(at) => (at, self.calls[0]),
            Fault::Collect(at) => (at, self.calls[1]),
            Fault::Panic(_) | Fault::Logits(_) => return None,
        };
        (self.for_good && calls >= at).then(|| ILLEGAL.into())
    }
}

fn start(fault: Fault, for_good: bool) -> Engine {
    let options = LoadOptions { max_in_flight: Some(2), ..options() };
    support::start(Failing { fault, for_good, calls: [0; 2] }, options)
}

/// How a request ended, or why it was refused.
type Ended = std::result::Result<Finished, String>;

/// Serves six requests and one more after them; how each ended, and how many sequences and blocks
/// are left.
fn serve(fault: Fault, for_good: bool) -> (Vec<Ended>, Ended, usize) {
    let engine = start(fault, for_good);
    let submit = |i, max_tokens| engine.stream(request(i, max_tokens)).map_err(|e| e.to_string());
    let streams: Vec<_> = (0..6).map(|i| submit(i, 8)).collect();
    let ended = streams.into_iter().map(|stream| stream.map(end)).collect();
    let late = submit(0, 2).map(end);
    let stats = engine.stats();
    (ended, late, stats.num_running + stats.num_waiting + stats.used_blocks)
}

fn check_failed(ended: &Ended) {
    let error = match ended {
        Ok(finished) => {
            assert_eq!(finished.reason, FinishReason::Failed);
            finished.error.as_deref().unwrap_or_default()
        }
        Err(refused) => refused,
    };
    assert!(error.contains(ILLEGAL) && error.lines().count() == 1, "{error}");
}

#[test]
fn a_device_that_fails_for_good_ends_all_requests_with_its_reason() {
    for fault in [Fault::Submit(1), Fault::Submit(3), Fault::Collect(1), Fault::Collect(4)] {
        let (ended, late, left) = in_time(move || serve(fault, true));
        ended.iter().for_each(check_failed);
        check_failed(&late);
        // Nothing is queued for a device that will not come back.
        assert!(late.is_err(), "{fault:?}: {late:?}");
        assert_eq!((ended.len(), left), (6, 0), "{fault:?}");
    }
}

#[test]
fn a_step_that_fails_once_ends_its_own_requests_and_no_others() {
    for fault in [Fault::Submit(2), Fault::Collect(2)] {
        let (ended, late, left) = in_time(move || serve(fault, false));
        let reason = |ended: &Ended| ended.as_ref().unwrap().reason;
        let failed: Vec<_> = ended.iter().filter(|f| reason(f) == FinishReason::Failed).collect();
        failed.iter().for_each(|finished| check_failed(finished));
        assert!((1..=3).contains(&failed.len()), "{fault:?}: {} failed", failed.len());
        let served = ended.iter().chain([&late]).filter(|f| reason(f) == FinishReason::Length).count();
        assert_eq!((served, left), (7 - failed.len(), 0), "{fault:?}");
    }
}

/// The first choice computes the prompt and reports its rows; the others would go on without them.
#[test]
fn no_choice_goes_on_without_the_rows_of_the_prompt_that_were_asked_for() {
    // 18 tokens, in steps of 16.
    for fault in [Fault::Submit(1), Fault::Submit(2), Fault::Collect(1), Fault::Collect(2), Fault::Logits(1)]
    {
        let ends = |request: Request| {
            let engine = start(fault, false);
            let ended = engine.generate_choices(Request { n: Some(3), ..request }).unwrap();
            let stats = engine.stats();
            assert_eq!(stats.num_waiting, 0, "{fault:?}");
            ended.into_iter().map(|choice| choice.finished).collect::<Vec<_>>()
        };
        let rows = |logits| Request { prompt_logprobs: Some(0), logits, ..request(3, 4) };
        let is_of_logits = matches!(fault, Fault::Logits(_));
        for finished in ends(rows(is_of_logits)) {
            check_failed(&Ok(finished));
        }
        let without = ends(request(3, 4));
        let reasons: Vec<_> = without.iter().map(|finished| finished.reason).collect();
        let first = if is_of_logits { FinishReason::Length } else { FinishReason::Failed };
        assert_eq!(reasons, [first, FinishReason::Length, FinishReason::Length], "{fault:?}");
    }
}

#[test]
fn logits_that_cannot_be_read_end_their_request_with_an_error() {
    let engine = start(Fault::Logits(2), false);
    let wants = |logits| Request { logits, ..request(0, 8) };
    let finished = [true, false].map(|logits| end(engine.stream(wants(logits)).unwrap()));
    let error = finished[0].error.as_deref().unwrap_or_default();
    assert!(error.contains("logits cannot be read") && error.contains(ILLEGAL), "{error}");
    assert_eq!(finished.map(|finished| finished.reason), [FinishReason::Failed, FinishReason::Length]);
    let stats = engine.stats();
    assert_eq!(stats.num_running + stats.num_waiting + stats.used_blocks, 0);
}

/// Those in flight and those in the queue.
#[test]
fn a_panic_on_the_device_thread_reaches_all_requests_with_its_reason() {
    in_time(|| {
        let engine = start(Fault::Panic(2), false);
        let streams: Vec<_> = (0..6).filter_map(|i| engine.stream(request(i, 8)).ok()).collect();
        let told = |message: &str| assert!(message.contains("index 7 is out of bounds"), "{message}");
        assert!(!streams.is_empty());
        for stream in streams {
            let finished = end(stream);
            assert_eq!(finished.reason, FinishReason::Failed);
            told(&finished.error.unwrap());
        }
        told(&engine.stream(request(0, 2)).err().unwrap().to_string());
        told(&engine.measure_read_bandwidth().unwrap_err().to_string());
        let Health::Failed(reason) = engine.health() else { panic!("{:?}", engine.health()) };
        told(&reason);
        support::eventually(|| {
            let stats = engine.stats();
            stats.num_running + stats.num_waiting + stats.used_blocks == 0
        });
    });
}

#[test]
fn a_request_that_fails_while_it_runs_is_an_error_of_generate() {
    let engine = start(Fault::Collect(1), false);
    let error = engine.generate(request(0, 8)).unwrap_err().to_string();
    assert!(error.starts_with("generation failed: ") && error.contains(ILLEGAL), "{error}");
    assert_eq!(engine.generate(request(0, 8)).unwrap().tokens.len(), 8);
    assert_eq!(engine.health(), Health::Serving);
}

/// A device without memory left for a measurement.
#[derive(Clone)]
struct Full;

impl Hooks for Full {
    fn measure_read_bandwidth(&self) -> Result<Option<f64>> {
        Err(CoreError::OutOfMemory { bytes: 1 << 30, what: "a measurement" })
    }
}

#[test]
fn a_measurement_that_fails_says_why_and_harms_no_request() {
    in_time(|| {
        let engine = support::start(Full, options());
        let error = engine.measure_read_bandwidth().unwrap_err().to_string();
        assert!(error.contains("no 1.0 GiB left for a measurement"), "{error}");
        assert_eq!(end(engine.stream(request(0, 4)).unwrap()).reason, FinishReason::Length);
    });
}
