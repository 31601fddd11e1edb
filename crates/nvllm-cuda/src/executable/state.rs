//! What a loaded model is on a device.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use nvllm_core::host::{Batch, BatchOutput, Slots};
use nvllm_core::program::MemoryPlan;
use nvllm_core::{CoreError, DType, KvGeometry, Limits, Program, Result, ValueId};

use crate::device::Device;
use crate::graphs::{GraphLimits, Graphs};
use crate::inputs::Inputs;
use crate::kv::CudaKv;
use crate::launch::{Extents, Launch};
use crate::lower::Schedule;
use crate::memory::Buffer;
use crate::modules::Modules;
use crate::profile::Timed;
use crate::rope::RopeTables;
use crate::sampler::{Sampler, Sampling};
use crate::slots::DeviceSlots;
use crate::step_buffers::StepBuffers;
use crate::step_clock::StepClock;
use crate::weights::Weights;
use crate::work_lists::WorkLists;

/// One entry program, lowered.
pub(crate) struct Entry {
    pub program: Program,
    pub plan: MemoryPlan,
    pub schedule: Schedule,
    /// Memory of the stage that is a whole pass.
    pub pass: Buffer,
    /// What samples the program's logits, if it makes some.
    pub sampling: Option<Sampling>,
}

/// What a loaded model has on the device, its launches, graphs and the buffers of steps in flight
/// aside.
pub(crate) struct DeviceState {
    pub arena: Buffer,
    pub weights: Weights,
    pub kv: CudaKv,
    pub inputs: Inputs,
    pub slots: DeviceSlots,
    pub sampler: Sampler,
    pub ropes: RopeTables,
    pub lists: WorkLists,
    /// Partial sums of linear layers.
    pub partial: Buffer,
    /// Kernels stay loaded as long as something may launch them.
    pub modules: Rc<Modules>,
}

/// A submitted step.
pub(super) struct Flight {
    pub(super) ticket: u64,
    /// Index into `step_buffers`.
    pub(super) buffers: usize,
    pub(super) entry: usize,
    pub(super) batch: Batch,
    /// Copies of all rows of the program's output, if one is wanted on the host.
    pub(super) rows: Option<Arc<Buffer>>,
    pub(super) awaits_masks: bool,
}

/// An [`Executable`](nvllm_core::Executable) on a CUDA device.
pub struct CudaExecutable {
    pub(crate) device: Arc<Device>,
    pub(super) limits: Limits,
    pub(super) vocab_size: usize,
    pub(super) geometries: Vec<KvGeometry>,
    pub(crate) entries: Vec<Entry>,
    /// What every step computes of its inputs, before its program.
    pub(super) begin: Vec<Launch>,
    pub(super) graphs: Graphs,
    pub(super) state: DeviceState,
    pub(super) step_buffers: Vec<StepBuffers>,
    /// What times steps, if the driver can.
    pub(super) clock: Option<StepClock>,
    /// Lengths and positions, which the host knows; tokens are the device's.
    pub(super) slots: Slots,
    pub(super) flights: VecDeque<Flight>,
    pub(super) next_buffers: usize,
    /// Bytes of inputs that the last step uploaded.
    pub(super) input_bytes: usize,
    /// Entry and extents of the last step, for kept values.
    pub(crate) last: Option<(usize, Extents)>,
    /// Set by the first error of the device; every later call returns it.
    pub(super) failed: Option<String>,
    pub(super) profiling: bool,
    pub(super) timed: Vec<Timed>,
}

/// What [`CudaExecutable::new`] is made from.
pub(crate) struct Parts {
    pub device: Arc<Device>,
    pub limits: Limits,
    pub vocab_size: usize,
    pub geometries: Vec<KvGeometry>,
    pub entries: Vec<Entry>,
    pub begin: Vec<Launch>,
    pub state: DeviceState,
    pub step_buffers: Vec<StepBuffers>,
    pub clock: Option<StepClock>,
}

impl CudaExecutable {
    /// Without graphs.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { device, limits, vocab_size, geometries, entries, begin, state, step_buffers, clock } =
            parts;
        Self {
            device,
            slots: Slots::new(limits.seqs),
            limits,
            vocab_size,
            geometries,
            entries,
            begin,
            graphs: Graphs::none(),
            state,
            step_buffers,
            clock,
            flights: VecDeque::new(),
            next_buffers: 0,
            input_bytes: 0,
            last: None,
            failed: None,
            profiling: false,
            timed: Vec::new(),
        }
    }

    /// Lets steps that decode be replayed as graphs.
    pub(crate) fn replay_graphs(&mut self) {
        let Limits { step_tokens, step_outputs, seqs, context, block_len, .. } = self.limits;
        let passes = self.entries.iter().filter_map(|entry| entry.schedule.pass());
        self.graphs = Graphs::new(&GraphLimits {
            num_entries: self.entries.len(),
            rows: step_tokens.min(step_outputs).min(seqs),
            context,
            passes: passes.map(|pass| (pass.most_rows, pass.most_positions)).collect(),
            prefill: !block_len.is_multiple_of(16),
        });
    }

    /// Errors once the device has failed.
    pub(super) fn alive(&self) -> Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(problem) => Err(CoreError::Device {
                backend: "cuda".into(),
                problem: format!("the device failed before: {problem}; load the model again"),
            }),
        }
    }

    /// Remembers a failure of the device: what is on it can no longer be relied on.
    pub(super) fn guard<T>(&mut self, result: crate::Result<T>) -> Result<T> {
        result.map_err(|error| {
            self.failed.get_or_insert_with(|| error.to_string());
            error.into()
        })
    }

    /// What a step's launches are sized for.
    pub(super) fn extents(&self, batch: &Batch) -> Extents {
        Extents {
            tokens: batch.tokens.len(),
            outputs: batch.outputs.len(),
            seqs: batch.seqs.len(),
            prefill: self.state.lists.prefill(batch),
            positions: batch.seqs.iter().map(|seq| seq.kv_start + seq.num_rows).max().unwrap_or(0),
            draws: draws(batch, &self.slots),
        }
    }

    /// Columns and dtype of a value.
    pub(super) fn row_shape(&self, entry: usize, value: ValueId) -> (usize, DType) {
        let value = self.entries[entry].program.value(value);
        (value.cols, value.kind.dtype(&self.limits))
    }
}

/// Whether some row's token is drawn, of the sequences that hold `slots`.
fn draws(batch: &Batch, slots: &Slots) -> bool {
    let is_drawn = |output: &BatchOutput| {
        let slot = slots.get(batch.seqs[output.seq].slot);
        output.want.sample && slot.is_none_or(|slot| slot.sampling.temperature > 0.0)
    };
    batch.outputs.iter().any(is_drawn)
}

#[cfg(test)]
mod tests {
    use nvllm_core::{
        Activations, BlockId, OutputRow, SamplingParams, SeqStep, SlotId, SlotReset, Source, Step, TokenId,
    };

    use super::*;
    use crate::inputs::tests::GEOMETRY;

    /// Whether a step draws in which slot 0 is greedy and slot 1 is not: a row of each of `slots`,
    /// sampled or scored.
    fn step_draws(slots: &[(u32, OutputRow)]) -> bool {
        let limits = Limits { kv_bytes: 1 << 20, ..Limits::new(Activations::Bf16, 2, 64) };
        let reset = |(slot, temperature)| SlotReset {
            slot: SlotId(slot),
            prompt: [TokenId(5)].into(),
            output: [].into(),
            sampling: SamplingParams { temperature, ..SamplingParams::default() }.into(),
        };
        let seq = |&(slot, output): &(u32, OutputRow)| SeqStep {
            slot: SlotId(slot),
            tokens: [Source::Host(TokenId(5))].into(),
            positions: [Source::Host(0)].into(),
            kv_start: Source::Host(0),
            block_tables: [[BlockId(1 + slot)].into()].into(),
            outputs: [output].into(),
        };
        let resets = [(0, 0.0), (1, 0.5)].map(reset).into();
        let step = Step { resets, seqs: slots.iter().map(seq).collect(), ..Step::default() };
        let mut slots = Slots::new(limits.seqs);
        slots.reset(&step, 50).unwrap();
        let batch = Batch::new(&step, &slots, &limits, &[GEOMETRY], 50).unwrap();
        draws(&batch, &slots)
    }

    #[test]
    fn a_step_draws_if_one_row_is_sampled_with_a_temperature() {
        let (sample, values) = (OutputRow::sample(0), OutputRow::values(0));
        assert!(!step_draws(&[(0, sample)]));
        assert!(!step_draws(&[(0, sample), (1, values)]));
        assert!(step_draws(&[(1, sample)]));
        assert!(step_draws(&[(0, sample), (1, sample)]));
    }
}
