//! Programs whose output is hidden states: their rows are handed out, and nothing can be sampled
//! from them.

use nvllm_core::{Backend, OutputRow, Reference};
use proptest::prelude::*;

use crate::check::{Settings, holds, load};
use crate::error::{Mismatch, Result};
use crate::layout::{Layout, Outputs, layouts};
use crate::models::{logits as rows, run};
use crate::trial::{Numbers, Sketch, Trial, numbers};

/// Rows of a table, in the dtype of activations: copies, so that all backends agree bit for bit.
fn trial(numbers: Numbers, layout: Layout, cols: usize) -> Trial {
    let mut sketch = Sketch::new(numbers);
    let table = sketch.table("table", 23, cols);
    sketch.finish(23, layout, |p| {
        let x = p.embed(table);
        let x = p.gather_rows(x);
        p.output_hidden(x);
    })
}

/// Case of [`ProgramOutput::Hidden`](nvllm_core::ProgramOutput).
pub fn hidden_states(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let strategy = (numbers(backend), layouts(Just(19_usize), 5), 1_usize..70);
    holds("hidden_states", settings, 0.5, strategy, |(numbers, layout, cols)| {
        let layout = Layout { outputs: Outputs::Some, logits: true, ..layout.clone() };
        let trial = trial(*numbers, layout, *cols);
        let mut exe = load(backend, &trial)?;
        let mut reference = load(&Reference::default(), &trial)?;
        for step in trial.steps() {
            let [got, want] = [&mut *exe, &mut *reference].map(|exe| rows(&run(exe, &step)?));
            if got? != want? {
                let problem = format!("step {}: rows of hidden states are not the program's", step.id);
                return Err(Mismatch::contract(problem));
            }
            let mut sampled = step.clone();
            sampled.seqs[0].outputs = [OutputRow::sample(0)].into();
            if exe.submit(&sampled).is_ok() {
                return Err(Mismatch::contract("a row of hidden states was sampled"));
            }
        }
        Ok(())
    })
}
