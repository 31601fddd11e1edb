//! A whole decode step in one launch: every node behind the embedding as phases of a persistent
//! kernel (kernels/decode_pass/).

mod check;
mod limits;
#[cfg(test)]
mod oracle;
mod packets;
mod phase;
mod record;
mod schedule;
#[cfg(test)]
mod tests;

use nvllm_core::{KvFormat, Limits, Op, Program, Rows};

use self::check::Machine;
pub(super) use self::limits::shared_kernels;
use self::limits::{MAPS, NORM_COLS, STATE_BYTES, Shared, kernel};
use self::packets::packet_bytes;
use self::phase::{Phase, Weight};
use self::record::{Loaded as _, Pass};
use self::schedule::Schedule;
use super::stage::Stage;
use super::{Lowering, attends_fast};
use crate::compile::Target;
use crate::error::Result;
use crate::kernels::rms_norm::norm_order::norm_cols;
use crate::launch::{Args, Dim, Extents, Launch};
use crate::tensor_map::{MAP_BYTES, TensorMap};
use crate::work_lists::CHUNK;

/// Bytes of device memory of the pass over `program`, at most.
pub(crate) fn pass_bytes(program: &Program, limits: &Limits) -> usize {
    let fused = |op: &Op| matches!(op, Op::Attention { spec, .. } if attends_fast(spec, limits));
    if limits.kv_format != KvFormat::Bf16 || !program.nodes.iter().any(|node| fused(&node.op)) {
        return 0;
    }
    let cols = program.nodes.iter().flat_map(|node| &node.outputs).map(|&id| program.value(id).cols);
    let phases = 2 * program.nodes.len();
    phases * (size_of::<Phase>() + size_of::<Weight>() + MAPS * MAP_BYTES + STATE_BYTES)
        + MAP_BYTES
        + STATE_BYTES
        + cols.map(packet_bytes).sum::<usize>()
}

/// Whether a step is one of decoding one sequence: it has one new row, which is an output.
fn decodes(step: Extents) -> bool {
    (step.tokens, step.seqs, step.outputs) == (1, 1, 1) && !step.prefill
}

impl Lowering<'_> {
    /// The stage of all nodes from `at` to the last, if that is the node behind the embedding and
    /// the pass can run all of them.
    pub(super) fn decode_pass(&self, at: usize) -> Result<Option<Stage>> {
        if at != 1 || self.modules.target() != Target::Cubin(90) {
            return Ok(None);
        }
        let Some(mut pass) = self.record(at) else { return Ok(None) };
        if pass.widest_norm > NORM_COLS {
            return Ok(None);
        }
        let Some(attention) = pass.attention.take() else { return Ok(None) };

        let facts = self.modules.facts();
        let spec = &attention.spec;
        let blocks = facts.multiprocessors;
        let chunk_bytes = 2 * CHUNK * spec.head_dim * 2;
        let machine = Machine {
            blocks,
            multiprocessors: facts.multiprocessors,
            attention: [spec.num_heads + 2 * spec.num_kv_heads, spec.num_heads].map(|n| n * spec.head_dim),
        };
        let units = [spec.num_kv_heads, chunk_bytes];
        let Some(schedule) = self.scheduled(&mut pass, &machine, units) else { return Ok(None) };
        let weights = schedule.weights.len();
        let row_bytes = schedule.row_bytes();
        let Some(shared) = Shared::new(facts.block_shared_bytes, row_bytes, weights) else {
            return Ok(None);
        };
        self.upload(&schedule)?;
        let (first_attention, num_attention) = schedule.attention();
        let runs = if pass.widest_norm <= norm_cols(1) { 1 } else { 4 };
        let name = kernel(attention.spec.head_dim, runs);
        let (layout, list) = (&self.inputs.layout, &attention.list);
        let args = Args::new()
            .ptr(self.pass.at(0))
            .ptr(self.pass.at(schedule.parts.weights))
            .int(weights)
            .ptr(self.pass.at(schedule.parts.maps))
            .ptr(self.pass.at(schedule.parts.state))
            .ptr(self.pass.at(schedule.parts.counters))
            .int(schedule.phases.len())
            .int(first_attention)
            .int(num_attention)
            .int(shared.pairs)
            .int(row_bytes)
            .ptr(self.inputs.at(layout.outputs))
            .chunks()
            .ptr(self.inputs.at(layout.tables[attention.group]))
            .int(layout.max_blocks)
            .int(attention.block_len)
            .ptr(list.decode)
            .ptr(list.counts)
            .ptr(list.first_entry)
            .ptr(self.inputs.at(layout.row_place[attention.group]))
            .ptr(self.ropes.table(&attention.rope))
            .int(spec.num_heads)
            .int(spec.num_kv_heads)
            .int(spec.window.unwrap_or(0))
            .f32(spec.scale)
            .ptr(list.partial[0])
            .ptr(list.partial[1]);
        let shared = shared.bytes as u32;
        let function = self.modules.function_with(&name, shared)?;
        let launch =
            Launch::new(&function, Dim::Fixed(blocks), args).with_shared(shared).early().cooperative();
        Ok(Some(Stage {
            nodes: at..self.program.nodes.len(),
            rows: Rows::TOKENS,
            most_rows: 1,
            most_positions: usize::MAX,
            only: decodes,
            orders: pass.orders,
            launches: vec![launch],
        }))
    }

    /// The schedule of the pass; None if its memory has too little room, or if it has a fault.
    fn scheduled(&self, pass: &mut Pass, machine: &Machine, units: [usize; 2]) -> Option<Schedule> {
        let room = self.pass.at(0)..self.pass.at(self.pass.len());
        let value = |id| {
            let value = self.value(id);
            (value.at, value.cols)
        };
        let schedule = Schedule::new(pass, machine.blocks, units, room, value)?;
        if let Err(fault) = schedule.check(machine) {
            debug_assert!(false, "{fault}");
            tracing::error!(%fault, "decode steps run kernel by kernel: their schedule has a fault");
            return None;
        }
        Some(schedule)
    }

    /// Writes the pass to its memory.
    fn upload(&self, schedule: &Schedule) -> Result<()> {
        let mut maps = Vec::new();
        for of in &schedule.maps {
            for each in of.boxes {
                maps.extend_from_slice(TensorMap::of_ranges(of.at, of.rows, of.cols, each)?.bytes());
            }
        }
        let (phases, weights) =
            (bytemuck::cast_slice(&schedule.phases), bytemuck::cast_slice(&schedule.weights));
        let parts = [(0, phases), (schedule.parts.weights, weights), (schedule.parts.maps, &maps)];
        self.pass.write_all(parts)
    }
}
