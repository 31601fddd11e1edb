//! Steps of many rows of which few differ: the reference computes each different row once, and all
//! rows of the same token have the same bits.

use std::collections::{BTreeMap, HashMap};

use nvllm_core::program::Value;
use nvllm_core::{Backend, Numerics, OutputRow, RowsOf, SeqStep, Source, Step, TokenId};

use crate::anchor::{Anchored, kept};
use crate::check::load;
use crate::draw::Draw;
use crate::error::{Doing, Mismatch, Result};
use crate::trial::Trial;

/// Holds every row of the trial's first step to the reference over the weights of `twin`. No op of
/// it depends on positions or on the KV cache.
///
/// Under [`Numerics::Fast`] rows of the same token may differ, and one of each is compared.
pub(crate) fn every_row_conforms(backend: &dyn Backend, trial: &Trial, twin: &Trial) -> Result<()> {
    let mut exe = load(backend, trial)?;
    let mut reference = Anchored::new(twin)?;
    let step = trial.steps().swap_remove(0);
    let ticket = exe.submit(&step).doing("submit")?;
    exe.collect(ticket).doing("collect")?;
    let rows = DifferentRows::new(&step);
    let mut theirs = HashMap::new();
    for value in trial.spec.programs[0].values.iter().filter(|value| value.keep) {
        let label = value.label.clone().unwrap_or_default();
        let num_rows = value.rows.resolve(step.num_tokens(), step.num_outputs(), step.seqs.len());
        let all = kept(&*exe, &label, [num_rows, value.cols], value.kind.dtype(&trial.limits))?.to_f32();
        let alike = trial.limits.numerics == Numerics::Invariant;
        theirs.insert(label.clone(), rows.select(&label, value, &all, alike)?);
    }
    reference.compare_with(0, &rows.step, theirs)
}

/// One row of each token of a step.
struct DifferentRows {
    /// The token of each row.
    tokens: Vec<TokenId>,
    /// For each token its row that stands for all.
    chosen: BTreeMap<TokenId, usize>,
    /// Rows that are outputs.
    outputs: Vec<usize>,
    /// The chosen rows as a step.
    step: Step,
}

impl DifferentRows {
    fn new(step: &Step) -> Self {
        let known =
            |source: &Source<TokenId>| if let Source::Host(token) = source { *token } else { TokenId(0) };
        let tokens: Vec<TokenId> = step.seqs.iter().flat_map(|seq| seq.tokens.iter().map(known)).collect();
        let (mut outputs, mut start) = (Vec::new(), 0);
        for seq in &step.seqs {
            outputs.extend(seq.outputs.iter().map(|row| start + row.index as usize));
            start += seq.tokens.len();
        }
        // Any of the rows of a token, but one that is an output if there is one.
        let mut draw = Draw::new(tokens.len() as u64);
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        draw.shuffle(&mut order);
        order.sort_by_key(|row| outputs.contains(row));
        let chosen: BTreeMap<_, _> = order.iter().map(|&row| (tokens[row], row)).collect();
        let mut rows: Vec<usize> = chosen.values().copied().collect();
        rows.sort_unstable();
        let step = chosen_step(step, &rows, &outputs);
        Self { tokens, chosen, outputs, step }
    }

    /// The chosen rows of a value, in the order of the chosen step. If rows are `alike`, errors
    /// with the first that differs from the chosen one of its token.
    fn select(&self, label: &str, value: &Value, all: &[f32], alike: bool) -> Result<Vec<f32>> {
        let of_tokens: Vec<usize> = (0..self.tokens.len()).collect();
        let rows = if value.rows.of == RowsOf::Outputs { &self.outputs } else { &of_tokens };
        let len = value.rows.times * value.cols;
        let mut selected = Vec::new();
        for (at, &row) in rows.iter().enumerate() {
            let (got, chosen) = (&all[at * len..][..len], self.chosen[&self.tokens[row]]);
            if chosen == row {
                selected.extend_from_slice(got);
                continue;
            }
            let Some(place) = rows.iter().position(|&other| other == chosen) else { continue };
            let want = &all[place * len..][..len];
            let differs = got.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits());
            if let (true, Some(col)) = (alike, differs) {
                let problem = format!(
                    "row {row} of `{label}` is {:e} at column {col}, and row {chosen}, of the same token, {:e}",
                    got[col], want[col]
                );
                return Err(Mismatch::contract(problem));
            }
        }
        Ok(selected)
    }
}

/// A step of these rows of `step`: sequences of one token each, or of one sequence.
fn chosen_step(step: &Step, rows: &[usize], outputs: &[usize]) -> Step {
    if let [seq] = &step.seqs[..] {
        let wanted = |(at, row): (usize, &usize)| outputs.contains(row).then(|| OutputRow::new(at as u32));
        let seq = SeqStep {
            tokens: rows.iter().map(|&row| seq.tokens[row]).collect(),
            positions: rows.iter().map(|&row| seq.positions[row]).collect(),
            outputs: rows.iter().enumerate().filter_map(wanted).collect(),
            ..seq.clone()
        };
        return Step { seqs: vec![seq], ..step.clone() };
    }
    let seqs: Vec<SeqStep> = rows.iter().map(|&row| step.seqs[row].clone()).collect();
    let resets = step.resets.iter().filter(|reset| seqs.iter().any(|seq| seq.slot == reset.slot));
    Step { resets: resets.cloned().collect(), seqs, ..step.clone() }
}

#[cfg(test)]
mod tests {
    use nvllm_core::{DType, Reference};

    use super::*;
    use crate::layout::{Layout, Outputs};
    use crate::trial::{Numbers, Sketch};

    /// A layer over many rows of five tokens.
    fn trial(seqs: Vec<Vec<usize>>, outputs: Outputs) -> Trial {
        let layout = Layout { seqs, outputs, logits: false, ..Layout::whole(&[1], 3) };
        let numbers = Numbers {
            weights: DType::Bf16,
            vectors: DType::Bf16,
            activations: nvllm_core::Activations::Bf16,
            kv: nvllm_core::KvFormat::Bf16,
            seed: 1,
        };
        let mut sketch = Sketch::new(numbers);
        let x = sketch.even_table("x", 5, 24, 1.0);
        let w = sketch.matrix("w", 9, 24);
        let trial = sketch.finish(5, layout, |p| {
            let x = p.embed(x);
            let y = p.linear(x, w);
            p.gather_rows(y);
        });
        trial.keep_all()
    }

    /// The reference, with `fault` done to the product of every linear layer.
    fn faulty(fault: fn(&mut [f32])) -> Reference {
        Reference::observed(std::sync::Arc::new(move |_, node, outputs: &mut [Vec<f32>]| {
            if node.op.stem() == "linear" {
                outputs.iter_mut().for_each(|out| fault(out));
            }
        }))
    }

    #[test]
    fn a_fault_in_any_row_is_found() {
        for trial in [trial(vec![vec![40]], Outputs::Last), trial(vec![vec![1]; 40], Outputs::All)] {
            let check = |backend: &dyn Backend| every_row_conforms(backend, &trial, &trial);
            check(&Reference::default()).unwrap();
            assert!(check(&faulty(|out| out.iter_mut().for_each(|x| *x *= 1.05))).is_err());
            for row in [0, 17, 39] {
                let error = match row {
                    0 => check(&faulty(|out| out[0] += 1.0)),
                    17 => check(&faulty(|out| out[17 * 9] += 1.0)),
                    _ => check(&faulty(|out| out[39 * 9 + 8] += 1.0)),
                };
                assert!(error.is_err(), "row {row}");
            }
        }
    }
}
