//! Grammar masks, which arrive after the step that awaits them was submitted.

use nvllm_core::{Backend, OutputRow, SeqStep, Source, Step, StepId, TokenMasks};

use crate::check::{Settings, holds};
use crate::draw::Draw;
use crate::error::{Doing, Mismatch, Result};
use crate::sampling::{Followed, check_tokens, follow, load, trials};

/// Grammar masks that arrive after submission: rows that await none, rows that await one, and rows
/// that await one and are then left free. Until masks come no other step is taken: it could ask for
/// tokens that are not sampled yet.
pub fn masks(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("masks", settings, 1.0, trials(backend), |(trial, voices)| {
        // Two in flight, or it is the limit that refuses the second step.
        let mut two = trial.clone();
        two.limits.max_in_flight = 2;
        let mut exe = load(backend, &two).or_else(|_| load(backend, trial))?;
        let (mut followed, mut resets) = follow(trial, voices);
        let mut draw = Draw::new(trial.layout.content ^ 7);
        for id in 0..3 {
            let row = |(i, f): (usize, &Followed)| OutputRow {
                values: true,
                awaits_mask: (i + id) % 3 != 1,
                ..OutputRow::sample(f.pending.len() as u32 - 1)
            };
            let seqs: Vec<_> =
                followed.iter().enumerate().map(|(i, f)| f.seq_step([row((i, f))].into())).collect();
            let mut mask = || -> Vec<u32> {
                let allowed = draw.below(trial.spec.vocab_size);
                let mut words: Vec<u32> =
                    (0..trial.spec.vocab_size.div_ceil(32)).map(|_| draw.word() & draw.word()).collect();
                words[allowed / 32] |= 1 << (allowed % 32);
                words
            };
            let rows = (0..seqs.len()).filter(|i| (i + id) % 3 == 0).map(|i| (i, mask())).collect();
            let masks = TokenMasks { rows };
            let free = (0..seqs.len()).find(|i| (i + id) % 3 == 1);
            let resets = std::mem::take(&mut resets);
            let step = Step { id: StepId(id as u64), resets, seqs, ..Step::default() };
            let ticket = exe.submit(&step).doing("submit")?;
            if !step.awaits_masks() {
                if exe.supply_masks(&ticket, TokenMasks::default()).is_ok() {
                    return Err(Mismatch::contract("masks were taken for a step that awaits none"));
                }
                let output = exe.collect(ticket).doing("collect")?;
                check_tokens(&step, &output, &mut followed, &masks)?;
                continue;
            }
            let next =
                Step { id: StepId(100), seqs: step.seqs.iter().map(after).collect(), ..Step::default() };
            if exe.submit(&next).is_ok() {
                return Err(Mismatch::contract("a step was taken while the one before awaits its masks"));
            }
            if let Some(row) = free {
                let wrong = TokenMasks { rows: vec![(row, mask())] };
                if exe.supply_masks(&ticket, wrong).is_ok() {
                    return Err(Mismatch::contract("a mask was taken for a row that awaits none"));
                }
            }
            exe.supply_masks(&ticket, masks.clone()).doing("supply_masks")?;
            if exe.supply_masks(&ticket, masks.clone()).is_ok() {
                return Err(Mismatch::contract("masks were taken twice for one step"));
            }
            let output = exe.collect(ticket).doing("collect")?;
            check_tokens(&step, &output, &mut followed, &masks)?;
        }
        Ok(())
    })
}

/// A step whose masks come while the step before it, from which it takes its tokens, is still in
/// flight.
pub fn masks_in_flight(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("masks_in_flight", settings, 0.5, trials(backend), |(trial, voices)| {
        let mut two = trial.clone();
        two.limits.max_in_flight = 2;
        let Ok(mut exe) = load(backend, &two) else { return Ok(()) };
        let (mut followed, resets) = follow(trial, voices);
        let last = |f: &Followed| OutputRow::sample(f.pending.len() as u32 - 1);
        let row = |f: &Followed| OutputRow { values: true, ..last(f) };
        let seqs = followed.iter().map(|f| f.seq_step([row(f)].into())).collect();
        let first = Step { id: StepId(0), resets, seqs, ..Step::default() };
        let mut seqs: Vec<_> = first.seqs.iter().map(after).collect();
        for (i, seq) in seqs.iter_mut().enumerate() {
            seq.outputs[0] = OutputRow { values: true, awaits_mask: i % 2 == 0, ..seq.outputs[0] };
        }
        let second = Step { id: StepId(1), seqs, ..Step::default() };
        // Every other token.
        let mask = vec![0x5555_5555_u32; trial.spec.vocab_size.div_ceil(32)];
        let masks = TokenMasks { rows: (0..voices.len()).step_by(2).map(|i| (i, mask.clone())).collect() };
        let [a, b] = [&first, &second].map(|step| exe.submit(step).doing("submit"));
        let (a, b) = (a?, b?);
        exe.supply_masks(&b, masks.clone()).doing("supply_masks")?;
        let output = exe.collect(a).doing("collect")?;
        check_tokens(&first, &output, &mut followed, &TokenMasks::default())?;
        let output = exe.collect(b).doing("collect")?;
        check_tokens(&second, &output, &mut followed, &masks)
    })
}

/// The step of a token that only the device knows.
fn after(seq: &SeqStep) -> SeqStep {
    SeqStep {
        tokens: [Source::Slot].into(),
        positions: [Source::Slot].into(),
        kv_start: Source::Slot,
        outputs: [OutputRow::sample(0)].into(),
        ..seq.clone()
    }
}
