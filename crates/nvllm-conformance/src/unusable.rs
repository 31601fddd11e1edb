//! Rows of logits that hold NaN or infinity: they are said to be unusable, and no other row
//! notices.

use std::sync::Arc;

use nvllm_core::program::Projection;
use nvllm_core::sampling::is_usable;
use nvllm_core::{
    Backend, InlineVec, OutputRow, RowOutput, SamplingParams, SeqStep, SlotId, SlotReset, Source, Step,
    StepId, TokenId,
};
use proptest::prelude::*;

use crate::check::{Settings, holds, load};
use crate::error::{Doing, Mismatch, Result};
use crate::layout::{Layout, Outputs};
use crate::models::run;
use crate::trial::{Numbers, Sketch, Trial, numbers};

/// Tokens that the table has a row for; those from [`FIRST_BAD`] on are embedded as what is not a
/// number.
const NUM_ROWS: usize = 6;
const FIRST_BAD: usize = 4;
const HIDDEN: usize = 8;

/// Large enough that its square overflows, in f16 by itself.
const HUGE: f32 = 3e38;

/// A table and a head. The first column of the head is 0 but in row `lone`, that of the table is
/// `bad` in bad rows: NaN spoils whole rows of logits, what is huge overflows in one logit.
///
/// The bias rules tokens out: every `ruled_out`-th, or none if it is 0.
fn trial(numbers: Numbers, vocab: usize, [lone, ruled_out]: [usize; 2], bad: f32) -> Trial {
    let mut sketch = Sketch::new(numbers);
    let table = sketch.weight("table", &[NUM_ROWS, HIDDEN], &[NUM_ROWS], |draw, i| match i / HIDDEN {
        0..FIRST_BAD if i % HIDDEN == 0 => 0.0,
        0..FIRST_BAD => draw.unit(),
        _ if i % HIDDEN == 0 => bad,
        _ => 0.0,
    });
    let head = sketch.weight("head", &[vocab, HIDDEN], &[vocab], |draw, i| {
        let first = i % HIDDEN == 0;
        let weight = if first && i / HIDDEN == lone { HUGE } else { 0.0 };
        if first { weight } else { draw.unit() }
    });
    let bias = sketch.weight("bias", &[vocab], &[vocab], |_, i| {
        if ruled_out > 0 && i % ruled_out == 0 { f32::NEG_INFINITY } else { 0.0 }
    });
    let layout = Layout { outputs: Outputs::All, ..Layout::whole(&[2; NUM_ROWS], numbers.seed) };
    sketch.finish(vocab.max(NUM_ROWS), layout, |p| {
        let x = p.embed(table);
        let x = p.gather_rows(x);
        let x = p.linear_f32(x, Projection { weight: head, bias: Some(bias) });
        p.output_logits(x);
    })
}

/// Case of [`RowOutput::unusable`].
pub fn unusable_rows(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let bad = prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(HUGE)];
    let strategy = (numbers(backend), NUM_ROWS..300_usize, any::<prop::sample::Index>(), 0..3_usize, bad);
    holds("unusable_rows", settings, 1.0, strategy, |(numbers, vocab, lone, ruled_out, bad)| {
        let trial = trial(*numbers, *vocab, [lone.index(*vocab), *ruled_out], *bad);
        let mut exe = load(backend, &trial)?;
        // The slots stay in use: what follows a bad row in its slot is as good as any.
        for shift in 0..2 {
            let step = step(shift);
            let output = run(&mut *exe, &step)?;
            let wants = step.seqs.iter().flat_map(|seq| &seq.outputs);
            for (at, (want, row)) in wants.zip(&output.rows).enumerate() {
                check(want, row).map_err(|problem| {
                    Mismatch::contract(format!("unusable_rows: step {shift}, row {at}: {problem}"))
                })?;
            }
            let part = |unusable: bool| {
                let rows = step.seqs.iter().zip(&output.rows);
                let seqs = rows.filter(|(_, row)| row.unusable == unusable).map(|(seq, _)| seq.clone());
                Step { seqs: seqs.collect(), resets: Vec::new(), ..step.clone() }
            };
            let bad = exe.find_unusable(&part(true)).doing("find_unusable")?;
            let good = exe.find_unusable(&part(false)).doing("find_unusable")?;
            // Minus infinity in a row that can be sampled is the model's own.
            let good = good.filter(|_| *ruled_out == 0);
            if !bad.as_ref().is_some_and(|op| op.contains("embed(") || op.contains("linear("))
                || good.is_some()
            {
                let problem = format!("NaN begins at {bad:?}; without bad rows at {good:?}");
                return Err(Mismatch::contract(format!("unusable_rows: step {shift}: {problem}")));
            }
        }
        Ok(())
    })
}

/// One token for each slot: sampled greedily or not, scored or not, or only scored.
fn step(shift: u64) -> Step {
    let slots = || 0..NUM_ROWS as u32;
    let reset = |slot: u32| SlotReset {
        slot: SlotId(slot),
        prompt: [].into(),
        output: [].into(),
        sampling: Arc::new(SamplingParams { temperature: (slot % 2) as f32, ..SamplingParams::default() }),
    };
    let seq = |slot: u32| {
        let wants = OutputRow { values: true, ..OutputRow::sample(0) };
        SeqStep {
            slot: SlotId(slot),
            tokens: [Source::Host(TokenId((slot + shift as u32) % NUM_ROWS as u32))].into(),
            positions: [Source::Host(shift as u32)].into(),
            kv_start: Source::Host(shift as u32),
            block_tables: InlineVec::new(),
            outputs: [match slot % 3 {
                0 => wants,
                1 => OutputRow { top_logprobs: Some(3), ..wants },
                _ => OutputRow { sample: false, target: Some(TokenId(1)), ..wants },
            }]
            .into(),
        }
    };
    Step {
        id: StepId(shift),
        resets: if shift == 0 { slots().map(reset).collect() } else { Vec::new() },
        seqs: slots().map(seq).collect(),
        ..Step::default()
    }
}

fn check(want: &OutputRow, row: &RowOutput) -> Result<(), String> {
    let values = row.values.as_ref().ok_or("came back without its logits")?;
    let values = values.to_host().doing("reading logits").map_err(|e| e.to_string())?.to_f32();
    let usable = is_usable(&values);
    let got = (!row.unusable, row.token.is_some(), row.logprobs.is_some());
    let right = (usable, usable && want.sample, usable && want.scored());
    if got == right {
        return Ok(());
    }
    Err(format!("(usable, token, log-probabilities) are {got:?}; {right:?} is right"))
}
