//! The reference, anchored: it runs the backend's program beside it, and after every op its result
//! is compared with the backend's and then replaced by it. So each op is judged on the backend's
//! own inputs, inside any program, and errors neither add up nor hide.
//!
//! Inner values of a fused op have no label and are not replaced; the fused op is judged at its
//! output.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvllm_core::program::Node;
use nvllm_core::weight::InputQuant;
use nvllm_core::{
    Backend, Executable, HostTensor, KvFormat, KvLayer, Limits, Op, PagedKv, Program, Reference, Source,
    Step, StepOutput, Tensor as _, ValueId, Weight,
};

use crate::bound::{Applied, History, RowAt, check_top_k};
use crate::error::{Difference, Doing, Mismatch, Result};
use crate::tolerance::ulp;
use crate::trial::Trial;

/// What the observer of one step shares with its owner.
struct Shared {
    weights: Vec<Vec<f32>>,
    /// What each weight does to its input, part by part.
    quants: Vec<Vec<InputQuant>>,
    limits: Limits,
    step: usize,
    rows: Vec<RowAt>,
    history: History,
    /// The backend's values of this step, by label.
    theirs: HashMap<String, Vec<f32>>,
    /// Values of this step, by id in the lowered program, and whether the backend's is among them.
    values: HashMap<u32, (Vec<f32>, bool)>,
    /// How far the backend's products of linear layers inside fused ops may be from those values,
    /// by id.
    slack: HashMap<u32, Vec<f64>>,
    first: Option<Mismatch>,
}

/// The anchored reference.
pub(crate) struct Anchored {
    shared: Arc<Mutex<Shared>>,
    exe: Box<dyn Executable>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Anchored {
    pub(crate) fn new(trial: &Trial) -> Result<Self> {
        let decode = |decl| {
            let weight = Weight::load(decl, &trial.source)?;
            Ok((weight.to_f32()?, weight.inputs()))
        };
        let weights = trial.spec.weights.iter().map(decode).collect::<nvllm_core::Result<_>>();
        let (weights, quants) = weights.doing("decoding weights")?;
        let shared = Arc::new(Mutex::new(Shared {
            weights,
            quants,
            limits: trial.limits.clone(),
            step: 0,
            rows: Vec::new(),
            history: History::new(),
            theirs: HashMap::new(),
            values: HashMap::new(),
            slack: HashMap::new(),
            first: None,
        }));
        let observed = Arc::clone(&shared);
        let reference = Reference::observed(Arc::new(move |program, node, outputs| {
            lock(&observed).observe(program, node, outputs);
        }));
        let exe = reference
            .plan_and_load(&trial.spec, &trial.source, &trial.limits)
            .doing("loading the reference")?;
        Ok(Self { shared, exe })
    }

    /// Runs `step` here after `other` has run it, and compares everything that `other` kept.
    pub(crate) fn follow(
        &mut self,
        at: usize,
        step: &Step,
        trial: &Trial,
        other: &dyn Executable,
    ) -> Result<()> {
        let program = &trial.spec.programs[step.entry.index()];
        let mut theirs = HashMap::new();
        for value in program.values.iter().filter(|v| v.keep) {
            let label = value.label.clone().unwrap_or_default();
            let rows = value.rows.resolve(step.num_tokens(), step.num_outputs(), step.seqs.len());
            let tensor = kept(other, &label, [rows, value.cols], value.kind.dtype(&trial.limits))?;
            theirs.insert(label, tensor.to_f32());
        }
        self.compare_with(at, step, theirs)
    }

    /// Runs `step` here and compares `theirs`, the other's kept values of the same rows, by label.
    pub(crate) fn compare_with(
        &mut self,
        at: usize,
        step: &Step,
        theirs: HashMap<String, Vec<f32>>,
    ) -> Result<()> {
        {
            let mut shared = lock(&self.shared);
            shared.step = at;
            shared.rows = rows(step);
            shared.theirs = theirs;
            shared.values.clear();
            shared.slack.clear();
        }
        let ticket = self.exe.submit(step).doing("the reference's step")?;
        if step.awaits_masks() {
            self.exe
                .supply_masks(&ticket, nvllm_core::TokenMasks::default())
                .doing("the reference's masks")?;
        }
        let _: StepOutput = self.exe.collect(ticket).doing("the reference's results")?;
        match lock(&self.shared).first.take() {
            Some(mismatch) => Err(mismatch),
            None => Ok(()),
        }
    }

    /// The reference's executable: its KV cache holds what the backend's should.
    pub(crate) fn executable(&mut self) -> &mut dyn Executable {
        &mut *self.exe
    }
}

/// The kept value `label`, with its shape and dtype checked.
pub(crate) fn kept(
    exe: &dyn Executable,
    label: &str,
    shape: [usize; 2],
    dtype: nvllm_core::DType,
) -> Result<HostTensor> {
    let tensor = exe
        .kept(label)
        .doing("reading a kept value")?
        .ok_or_else(|| Mismatch::contract(format!("`kept` has no value `{label}`, which is marked keep")))?;
    if tensor.shape() != shape || tensor.dtype() != dtype {
        let problem = format!("is {:?} {}; {shape:?} {dtype} is right", tensor.shape(), tensor.dtype());
        return Err(Mismatch::contract(format!("the kept value `{label}` {problem}")));
    }
    Ok(tensor)
}

/// Slot and KV index of each row. The suite's anchored steps name both.
pub(crate) fn rows(step: &Step) -> Vec<RowAt> {
    let row = |slot, start: Source<u32>, i| {
        let start = if let Source::Host(start) = start { start as usize } else { 0 };
        RowAt { slot, kv_index: start + i }
    };
    step.seqs.iter().flat_map(|s| (0..s.tokens.len()).map(move |i| row(s.slot, s.kv_start, i))).collect()
}

/// Puts a step's keys and values behind what was cached before them, as the group `shape` stores
/// them.
pub(crate) fn append(
    history: &mut History,
    kv: KvLayer,
    rows: &[RowAt],
    parts: [&[f32]; 2],
    shape: &PagedKv,
    format: KvFormat,
) {
    let width = shape.num_heads * shape.head_dim;
    for (part, x) in parts.into_iter().enumerate() {
        for (at, x) in rows.iter().zip(x.chunks(width)) {
            let held = &mut history.entry((kv, at.slot)).or_default()[part];
            held.truncate(at.kv_index * width);
            held.extend_from_slice(x);
            held[at.kv_index * width..].chunks_mut(shape.head_dim).for_each(|row| format.round(row));
        }
    }
}

impl Shared {
    fn observe(&mut self, program: &Program, node: &Node, outputs: &mut [Vec<f32>]) {
        if let Op::KvAppend { kv } = node.op {
            self.remember(program, node, kv);
            return;
        }
        let theirs: Vec<_> =
            node.outputs.iter().map(|&id| self.theirs.remove(program.value(id).label.as_ref()?)).collect();
        if self.first.is_none()
            && let Err(mismatch) = self.compare(program, node, outputs, &theirs)
        {
            self.first = Some(mismatch);
        }
        if let (Op::Linear { .. }, [None], None) = (&node.op, &theirs[..], &self.first) {
            let slack = self.slack(program, node, &outputs[0]);
            self.slack.insert(node.outputs[0].0, slack);
        }
        // After a difference the rest of the step is not looked at: ids may be out of range.
        for ((id, out), theirs) in node.outputs.iter().zip(outputs).zip(theirs) {
            let seen = theirs.is_some();
            if let (Some(theirs), None) = (theirs, &self.first) {
                *out = theirs;
            }
            self.values.insert(id.0, (out.clone(), seen));
        }
    }

    fn remember(&mut self, program: &Program, node: &Node, kv: KvLayer) {
        let parts = [0, 1].map(|part| self.values[&node.inputs[part].0].0.as_slice());
        append(&mut self.history, kv, &self.rows, parts, &program.kv[kv.group], self.limits.kv_format);
    }

    fn compare(
        &self,
        program: &Program,
        node: &Node,
        outputs: &[Vec<f32>],
        theirs: &[Option<Vec<f32>>],
    ) -> Result<()> {
        let Some(Some(got)) = theirs.first() else { return Ok(()) };
        let inputs: Vec<&[f32]> = node.inputs.iter().map(|id| self.values[&id.0].0.as_slice()).collect();
        let cols = |id: &ValueId| program.value(*id).cols;
        let in_cols: Vec<_> = node.inputs.iter().map(cols).collect();
        let difference = |i: usize, expected: f32, allowed: f64, num_bad: usize, cols: usize| Difference {
            step: self.step,
            line: program.line(node),
            row: i / cols,
            col: i % cols,
            got: got[i],
            expected,
            allowed,
            num_bad,
            num_values: got.len(),
        };
        if let Op::TopK { k, renormalize } = node.op {
            let Some(Some(weights)) = theirs.get(1) else { return Ok(()) };
            return check_top_k(inputs[0], in_cols[0], [k, usize::from(renormalize)], got, weights).map_err(
                |(row, problem)| {
                    let (line, step) = (program.line(node), self.step);
                    Mismatch::contract(format!(
                        "step {step}: `{line}`: first difference at row {row}: {problem}"
                    ))
                },
            );
        }
        let bounds = self.bounds(program, node, &outputs[0], Some(got));
        let value = program.value(node.outputs[0]);
        let dtype = value.kind.dtype(&self.limits);
        // Rounding as storage does: what the reference holds in f32 leaves it in the value's dtype.
        let allowed = |i: usize, got: f32, want: f32| {
            let larger = if got.abs() > want.abs() { got } else { want };
            bounds.get(i).map(|b| b + ulp(dtype, larger))
        };
        first_difference(got, &outputs[0], allowed).map_or(Ok(()), |(i, allowed, num_bad)| {
            Err(Mismatch::Value(Box::new(difference(i, outputs[0][i], allowed, num_bad, value.cols))))
        })
    }

    /// The accumulation part of the bound for each element of `out`, which the reference made of
    /// the values before it; where the backend's are `got`, for those that differ.
    fn bounds(&self, program: &Program, node: &Node, out: &[f32], got: Option<&[f32]>) -> Vec<f64> {
        let inputs: Vec<&[f32]> = node.inputs.iter().map(|id| self.values[&id.0].0.as_slice()).collect();
        let in_cols: Vec<_> = node.inputs.iter().map(|&id| program.value(id).cols).collect();
        let slack: Vec<_> = node.inputs.iter().map(|id| self.slack.get(&id.0).map(Vec::as_slice)).collect();
        let applied = Applied {
            op: &node.op,
            inputs: &inputs,
            in_cols: &in_cols,
            out,
            got,
            weights: &self.weights,
            quants: &self.quants,
            decls: &program.weights,
            rows: &self.rows,
            history: &self.history,
            activations: self.limits.activations,
            kv_format: self.limits.kv_format,
            unseen: node.inputs.iter().any(|id| !self.values[&id.0].1),
            slack: &slack,
        };
        applied.bounds()
    }

    /// What a backend's product of a linear layer inside a fused op may be away from `out`: rounded
    /// as the reference's is, or not.
    fn slack(&self, program: &Program, node: &Node, out: &[f32]) -> Vec<f64> {
        let dtype = program.value(node.outputs[0]).kind.dtype(&self.limits);
        self.bounds(program, node, out, None)
            .iter()
            .zip(out)
            .map(|(bound, &y)| bound + ulp(dtype, y))
            .collect()
    }
}

/// Index and allowance of the first element out of tolerance, and how many are. Without an
/// allowance bits are equal.
pub(crate) fn first_difference(
    got: &[f32],
    want: &[f32],
    allowed: impl Fn(usize, f32, f32) -> Option<f64>,
) -> Option<(usize, f64, usize)> {
    let mut first = None;
    let mut num_bad = 0;
    for (i, (&a, &b)) in got.iter().zip(want).enumerate() {
        if a.to_bits() == b.to_bits() {
            continue;
        }
        let limit = allowed(i, a, b);
        let near = limit.is_some_and(|limit| (f64::from(a) - f64::from(b)).abs() <= limit);
        if !near {
            first.get_or_insert((i, limit.unwrap_or(0.0)));
            num_bad += 1;
        }
    }
    first.map(|(i, limit)| (i, limit, num_bad))
}
