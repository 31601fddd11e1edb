//! With which contexts a decode step runs as a pass: those for which that is measured to be faster
//! than its kernels one by one. Both give the same bits.
//!
//! Both are timed at load as they will run: whole steps as graphs on the model's own buffers, with
//! ever longer contexts until the pass is slower. Attention is all that grows with the context, and
//! about evenly in both, so that where they cross follows from the last two times.

use std::sync::Arc;

use nvllm_core::host::{Batch, Slots};
use nvllm_core::{
    BlockId, KvCache as _, OutputRow, Program, SamplingParams, SeqStep, SlotId, SlotReset, Source, Step,
    TokenId,
};

use super::state::CudaExecutable;
use crate::compile::name_of;
use crate::error::Doing;
use crate::graphs::capture;
use crate::launch::Extents;
use crate::measured::{Faster, Measured};
use crate::work_lists::CHUNK;

/// When a step that decodes one sequence runs as a decode pass, on devices that have it: one launch
/// instead of some hundred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DecodePass {
    /// With contexts for which it measures faster than its kernels one by one.
    #[default]
    IfFaster,
    /// With every context: how tests see it run.
    Always,
    /// Never.
    Never,
}

/// How much longer each context is than the one timed before.
const LONGER: usize = 4;
/// Steps of one timing, one after another as they run in use.
const STEPS: usize = 4;
/// Timings of each, of which the fastest counts.
const RUNS: usize = 3;

impl CudaExecutable {
    /// Leaves each entry's decode pass the contexts that `when` says. What is timed is kept in
    /// `measured`. Nothing of it remains on the device.
    ///
    /// # Errors
    /// If the device has failed. Where times cannot be had, the kernels run one by one.
    pub(crate) fn choose_passes<'a>(
        &mut self,
        when: DecodePass,
        measured: impl Fn() -> &'a Measured,
    ) -> nvllm_core::Result<()> {
        let with_pass = |entry: &usize| self.entries[*entry].schedule.pass().is_some();
        for entry in (0..self.entries.len()).filter(with_pass).collect::<Vec<_>>() {
            let positions = match when {
                DecodePass::Always => usize::MAX,
                DecodePass::Never => 0,
                DecodePass::IfFaster => self.measured_positions(entry, measured())?,
            };
            self.entries[entry].schedule.limit_pass(positions);
        }
        Ok(())
    }

    /// Positions of a sequence up to which the pass is faster: as it was measured before, or now.
    fn measured_positions(&mut self, entry: usize, measured: &Measured) -> nvllm_core::Result<usize> {
        let most = self.most_positions();
        let case = case(&self.entries[entry].program, self.limits.context, self.limits.block_len, most);
        if let Some(Faster::Pass(positions)) = measured.get(&case) {
            return Ok(positions);
        }
        match faster_up_to(most, |positions| self.seconds_gained(entry, positions)) {
            Ok(positions) => {
                measured.insert(case, Faster::Pass(positions));
                measured.keep();
                tracing::info!(entry, positions, "decode steps run as a pass up to so many positions");
                Ok(positions)
            }
            Err(error) => {
                tracing::warn!(%error, entry, "decode steps run kernel by kernel: the decode pass could not be timed");
                // Unless it is the device that has failed.
                self.device.synchronize()?;
                Ok(0)
            }
        }
    }

    /// Positions of the longest sequence that there is room for.
    fn most_positions(&self) -> usize {
        let blocks = self.geometries.iter().map(|geometry| geometry.num_blocks - 1).min().unwrap_or(0);
        self.limits.context.min(blocks * self.limits.block_len)
    }

    /// Seconds by which the pass makes a step shorter whose sequence then has so many positions.
    fn seconds_gained(&mut self, entry: usize, positions: usize) -> nvllm_core::Result<f64> {
        let (step, batch) = self.decode_step(positions)?;
        let last = BlockId(positions.div_ceil(self.limits.block_len) as u32);
        let before = (0..self.geometries.len()).map(|group| self.state.kv.read_block(group, last));
        let before = before.collect::<nvllm_core::Result<Vec<_>>>()?;
        let gained = self.timed(entry, &step, &batch);
        // The step appends to that block.
        for (group, block) in before.iter().enumerate() {
            self.state.kv.write_block(group, last, block)?;
        }
        Ok(gained?)
    }

    /// A step that appends the last of so many positions of one sequence, in the first blocks.
    fn decode_step(&self, positions: usize) -> nvllm_core::Result<(Step, Batch)> {
        let mut slots = Slots::new(1);
        let (slot, sampling) = (SlotId(0), Arc::new(SamplingParams::default()));
        let reset = SlotReset { slot, prompt: [].into(), output: [].into(), sampling };
        slots.reset(&Step { resets: vec![reset], ..Step::default() }, self.vocab_size)?;
        let blocks = 1..=positions.div_ceil(self.limits.block_len) as u32;
        let table: Arc<[BlockId]> = blocks.map(BlockId).collect();
        let seq = SeqStep {
            slot,
            tokens: [Source::Host(TokenId(0))].into(),
            positions: [Source::Host(positions as u32 - 1)].into(),
            kv_start: Source::Host(positions as u32 - 1),
            block_tables: self.geometries.iter().map(|_| Arc::clone(&table)).collect(),
            outputs: [OutputRow::values(0)].into(),
        };
        let step = Step { seqs: vec![seq], ..Step::default() };
        let batch = Batch::new(&step, &slots, &self.limits, &self.geometries, self.vocab_size)?;
        Ok((step, batch))
    }

    /// The seconds of one `step` kernel by kernel without those of it as a pass.
    fn timed(&mut self, entry: usize, step: &Step, batch: &Batch) -> crate::Result<f64> {
        self.device.bind()?;
        let at = self.extents(batch);
        let (own, state) = (&mut self.step_buffers[0], &self.state);
        let packed = state.inputs.layout.pack(own.staging()?, step, batch, [at.tokens, at.seqs]);
        let (bytes, results) = (own.packed_at(), own.results_at());
        state.inputs.begin(&self.device, &packed, bytes, &state.slots.states, results)?;
        own.complete(&self.device)?;
        let graph = |pass: bool| {
            let run = |at: Extents| self.launch_stages(entry, at, pass);
            // Once as it is: what the driver does at the first launch of a kernel must not happen
            // while a graph is captured.
            run(at)?;
            capture(&self.device, at, run)
        };
        let (kernels, pass) = (graph(false)?, graph(true)?);
        let launch = |graph: &cudarc::driver::CudaGraph| graph.launch().doing("launching a graph");
        let (mut of_kernels, mut of_pass) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..RUNS {
            for (graph, best) in [(&kernels, &mut of_kernels), (&pass, &mut of_pass)] {
                launch(graph)?;
                let seconds = self.device.seconds(|| (0..STEPS).try_for_each(|_| launch(graph)))?;
                *best = best.min(seconds / STEPS as f64);
            }
        }
        let micros = |seconds: f64| (1e6 * seconds).round();
        let (kernels, pass) = (micros(of_kernels), micros(of_pass));
        tracing::info!(entry, positions = at.positions, kernels, pass, "a decode step, in microseconds");
        Ok(of_kernels - of_pass)
    }
}

/// What the two times depend on, the device aside.
fn case(program: &Program, context: usize, block_len: usize, most: usize) -> String {
    let program = name_of(program.to_string().as_bytes());
    format!("decode pass of {program}, context {context}, blocks of {block_len}, {most} positions at most")
}

/// Positions up to which something is gained, if there may be `most`; `gained` times a step.
fn faster_up_to(
    most: usize,
    mut gained: impl FnMut(usize) -> nvllm_core::Result<f64>,
) -> nvllm_core::Result<usize> {
    let (mut before, mut at) = (None, CHUNK.min(most));
    loop {
        let now = gained(at)?;
        if now <= 0.0 {
            return Ok(before.map_or(0, |before| crossing(before, (at, now))));
        }
        if at == most {
            return Ok(usize::MAX);
        }
        (before, at) = (Some((at, now)), (LONGER * at).min(most));
    }
}

/// Whole chunks of positions up to where the gain, above 0 at `from` and not at `to`, comes to 0.
fn crossing((from, more): (usize, f64), (to, less): (usize, f64)) -> usize {
    let inside = (to - from) as f64 * more / (more - less);
    ((from + inside as usize) / CHUNK * CHUNK).max(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of gains in microseconds that fall evenly from `at_0` by `per_1024` for every
    /// 1,024 positions, and the contexts that were timed.
    fn chosen(most: usize, at_0: f64, per_1024: f64) -> (usize, Vec<usize>) {
        let mut timed = Vec::new();
        let found = faster_up_to(most, |positions| {
            timed.push(positions);
            Ok(at_0 - per_1024 * positions as f64 / 1024.0)
        });
        (found.unwrap(), timed)
    }

    #[test]
    fn the_pass_runs_with_contexts_up_to_where_its_kernels_are_as_fast() {
        assert_eq!(chosen(40_960, 100.0, 20.0), (5120, vec![256, 1024, 4096, 16_384]));
        assert_eq!(chosen(40_960, 100.0, 1.0), (usize::MAX, vec![256, 1024, 4096, 16_384, 40_960]));
        assert_eq!(chosen(40_960, -1.0, 1.0), (0, vec![256]));
        assert_eq!(chosen(40_960, 1.0, 3.9), (256, vec![256, 1024]), "whole chunks");
        assert_eq!(chosen(100, 1.0, 1.0), (usize::MAX, vec![100]));
        assert_eq!(chosen(3000, 3.0, 1.0).0, usize::MAX);
        assert_eq!(chosen(3000, 2.5, 1.0), (2560, vec![256, 1024, 3000]));
    }

    #[test]
    fn what_cannot_be_timed_is_not_chosen() {
        let failed = || nvllm_core::CoreError::Device { backend: "cuda".into(), problem: "of a test".into() };
        let found = faster_up_to(4096, |at| if at < 1024 { Ok(1.0) } else { Err(failed()) });
        assert!(found.is_err());
    }
}
