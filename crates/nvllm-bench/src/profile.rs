//! Where the time of a step goes: a trace that Perfetto (ui.perfetto.dev) and `chrome://tracing`
//! open.
//!
//! One track for the host (submit, collect) and one for the device (every op of the lowered
//! program). An op carries its bytes, its operations, and the share of the hardware's limit that it
//! reached: the time that bytes over bandwidth or operations over matrix rate allow, whichever is
//! longer, divided by the time it took. Values that never leave a cache let a small op exceed 1.
//!
//! Format: the Trace Event Format of Chrome's tracing ("JSON Object Format", complete and metadata
//! events), times in microseconds.

use std::path::Path;
use std::slice::from_ref;
use std::time::Instant;

use nvllm_core::program::{Counts, Node, OpCost};
use nvllm_core::{Program, stage_name};
use serde_json::{Value, json};

use crate::context::Context;
use crate::measure::Roof;
use crate::measure::stepper::{self, StepSpan, Stepper};
use crate::record::Cost;
use crate::{BenchError, Result};

/// Prompt of the profiled sequence, at most.
const PROMPT_LEN: usize = 512;
/// Tokens decoded after it.
const NUM_DECODED: usize = 8;
/// Track of the host.
const HOST: u32 = 1;
/// Track of the device.
const DEVICE: u32 = 2;

/// Writes a trace of one prompt and some decoded tokens to `path`.
///
/// Errors if the backend cannot time ops, and if the file cannot be written.
pub(crate) fn write(context: &mut Context, path: &Path) -> Result<()> {
    let model = context.open()?;
    let len = PROMPT_LEN.min(context.step_tokens).min(model.spec.max_positions / 2).max(1);
    let prompt = context.prompts()?.get(0, len);
    let limits = context.limits(&model, 1, len + NUM_DECODED + 1, len)?;
    let backend = context.backend()?;
    let roof = context.roof(&backend);
    let weights = stepper::weights(&model, backend.as_ref(), &limits)?;
    let mut stepper = Stepper::load(backend.as_ref(), &model, &limits)?;
    // Once untimed: pages and scratch are touched for the first time.
    stepper.prefill(from_ref(&prompt))?;
    let mut counts = vec![Counts::prefill(len)];
    counts.extend((0..NUM_DECODED).map(|i| Counts::decode(1, len + i)));
    let steps = stepper.profiled(|stepper| {
        stepper.prefill(from_ref(&prompt))?;
        (0..NUM_DECODED).try_for_each(|_| stepper.decode(1).map(|_| ()))
    })?;
    let mut events = vec![
        json!({"ph": "M", "pid": 1, "name": "process_name", "args": {"name": format!("nvllm {}", context.settings.version)}}),
        track(HOST, "host"),
        track(DEVICE, &backend.info().device),
    ];
    let program = stepper.program()?;
    let Some(begun) = steps.first().map(|(span, _)| span.submit) else {
        return Err(BenchError::Data {
            file: context.subject.name.clone(),
            problem: "no step was timed".into(),
        });
    };
    for ((span, profile), counts) in steps.iter().zip(&counts) {
        events.extend(host_events(span, counts, begun));
        let costs = program.costs(counts, &limits, &weights);
        for op in &profile.ops {
            let start = micros(begun, span.submit) + 1e6 * op.start;
            let (nodes, cost) = match &op.nodes {
                Some(nodes) => (&program.nodes[nodes.clone()], costs[nodes.clone()].iter().copied().sum()),
                None => (&[][..], program.sampling_cost(counts)),
            };
            events.push(op_event(program, nodes, cost, roof, (start, op.seconds)));
        }
    }
    let trace = json!({
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "model": context.subject.name, "weights_sha256": context.subject.sha256, "device": backend.info().device,
            "prompt_tokens": len, "decoded_tokens": NUM_DECODED,
            "read_bandwidth": finite(roof.read), "matmul_rate": finite(roof.matmul),
        },
    });
    std::fs::write(path, trace.to_string()).map_err(BenchError::io("write", path))
}

fn track(tid: u32, name: &str) -> Value {
    json!({"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}})
}

fn micros(begun: Instant, at: Instant) -> f64 {
    1e6 * at.duration_since(begun).as_secs_f64()
}

/// What JSON can hold of a rate that may be unknown.
fn finite(rate: f64) -> Option<f64> {
    rate.is_finite().then_some(rate)
}

fn host_events(span: &StepSpan, counts: &Counts, begun: Instant) -> [Value; 2] {
    let event = |name: &str, from: Instant, to: Instant| {
        let args =
            json!({"tokens": counts.tokens, "sequences": counts.seqs, "kv_positions": counts.kv_positions});
        let (ts, dur) = (micros(begun, from), micros(from, to));
        json!({"ph": "X", "pid": 1, "tid": HOST, "cat": "host", "name": name, "ts": ts, "dur": dur, "args": args})
    };
    [event("submit", span.submit, span.submitted), event("collect", span.submitted, span.collected)]
}

fn op_event(
    program: &Program,
    nodes: &[Node],
    cost: OpCost,
    roof: Roof,
    (start, seconds): (f64, f64),
) -> Value {
    let weights = nodes.iter().flat_map(|node| node.op.weights());
    let names: Vec<&str> = weights.map(|id| program.weights[id.index()].name.as_str()).collect();
    let least = roof.seconds(Cost { bytes: cost.bytes(), flops: cost.flops });
    let share = (least > 0.0 && least.is_finite() && seconds > 0.0).then(|| least / seconds);
    let args = json!({
        "weights": names, "bytes": cost.bytes(), "flops": cost.flops,
        "bytes_per_second": (seconds > 0.0).then(|| cost.bytes() / seconds),
        "flops_per_second": (seconds > 0.0).then(|| cost.flops / seconds),
        "share_of_limit": share,
    });
    let (name, dur) = (if nodes.is_empty() { "sample".into() } else { stage_name(nodes) }, 1e6 * seconds);
    json!({"ph": "X", "pid": 1, "tid": DEVICE, "cat": "op", "name": name, "ts": start, "dur": dur, "args": args})
}
