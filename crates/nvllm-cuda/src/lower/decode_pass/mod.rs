//! A whole decode step in one launch: every node behind the embedding as phases of a persistent
//! kernel (kernels/decode_pass/).

mod check;
mod limits;
mod packets;
mod phase;
mod record;
mod schedule;
#[cfg(test)]
mod tests;

use nvllm_core::{KvFormat, Limits, Op, Program, Rows, RowsOf};

use self::check::Machine;
pub(super) use self::limits::shared_kernels;
use self::limits::{
    FASTER_ROWS, MOST_ROWS, NORM_COLS, SHARED, SIDE_BYTES, STATE_BYTES, STATIC_SHARED, kernel,
};
use self::packets::packet_bytes;
use self::phase::{LINEAR, Phase, Weight};
use self::record::Pass;
use self::schedule::Schedule;
use super::stage::Stage;
use super::{Lowering, attends_fast};
use crate::compile::Target;
use crate::error::Result;
use crate::kernels::rms_norm::norm_order::norm_cols;
use crate::launch::{Args, Dim, Extents, Launch};

/// Bytes of device memory of the pass over `program`, at most.
pub(crate) fn pass_bytes(program: &Program, limits: &Limits) -> usize {
    let fused = |op: &Op| matches!(op, Op::Attention { spec, .. } if attends_fast(spec, limits));
    if limits.kv_format != KvFormat::Bf16 || !program.nodes.iter().any(|node| fused(&node.op)) {
        return 0;
    }
    let cols = program.nodes.iter().flat_map(|node| &node.outputs).map(|&id| program.value(id).cols);
    let phases = 2 * program.nodes.len();
    phases * (size_of::<Phase>() + size_of::<Weight>() + STATE_BYTES)
        + STATE_BYTES
        + cols.map(packet_bytes).sum::<usize>()
}

/// Whether a step is one of decoding: a new row of each sequence.
fn decodes(step: Extents) -> bool {
    step.tokens == step.seqs && !step.prefill && (1..=step.tokens).contains(&step.outputs)
}

impl Lowering<'_> {
    /// The stage of all nodes from `at` to the last, if that is the node behind the embedding and
    /// the pass can run all of them.
    pub(super) fn decode_pass(&self, at: usize) -> Result<Option<Stage>> {
        if at != 1 || self.modules.target() != Target::Cubin(90) {
            return Ok(None);
        }
        let Some(mut pass) = self.record(at) else { return Ok(None) };
        let widest = pass.phases.iter().map(|recorded| recorded.phase.len as usize).max().unwrap_or(0);
        let most_rows = (SIDE_BYTES / (8 * widest * 2)).min(MOST_ROWS);
        let weights = pass.phases.iter().filter(|recorded| recorded.phase.kind == LINEAR).count();
        let shared = SHARED + weights * size_of::<Weight>();
        let facts = self.modules.facts();
        let fits = shared + STATIC_SHARED <= facts.block_shared_bytes && pass.widest_norm <= NORM_COLS;
        let Some(attention) = pass.attention.take().filter(|_| fits && most_rows > 0) else {
            return Ok(None);
        };

        let spec = &attention.spec;
        let machine = Machine {
            blocks: facts.multiprocessors,
            multiprocessors: facts.multiprocessors,
            rows: most_rows.min(self.limits.seqs),
            attention: [spec.num_heads + 2 * spec.num_kv_heads, spec.num_heads].map(|n| n * spec.head_dim),
        };
        let Some(schedule) = self.upload(&mut pass, &machine)? else { return Ok(None) };
        let runs = if pass.widest_norm <= norm_cols(1) { 1 } else { 4 };
        let name = kernel(attention.spec.head_dim, runs);
        let rows = |of| Rows { of, times: 1 };
        let (layout, list) = (&self.inputs.layout, &attention.list);
        let args = Args::new()
            .ptr(self.pass.at(0))
            .ptr(self.pass.at(schedule.parts.weights))
            .int(weights)
            .ptr(self.pass.at(schedule.parts.state))
            .ptr(self.pass.at(schedule.parts.counters))
            .int(schedule.phases.len())
            .rows(rows(RowsOf::Tokens))
            .rows(rows(RowsOf::Outputs))
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
        let function = self.modules.function_with(&name, shared as u32)?;
        let blocks = Dim::Fixed(facts.multiprocessors);
        let launch = Launch::new(&function, blocks, args).with_shared(shared as u32).early();
        Ok(Some(Stage {
            nodes: at..self.program.nodes.len(),
            rows: Rows::TOKENS,
            most_rows: most_rows.min(FASTER_ROWS),
            only: decodes,
            orders: pass.orders,
            launches: vec![launch],
        }))
    }

    /// Writes the pass to its memory; None if there is too little, or if the schedule has a fault.
    fn upload(&self, pass: &mut Pass, machine: &Machine) -> Result<Option<Schedule>> {
        let data = self.pass;
        let room = data.at(0)..data.at(data.len());
        let value = |id| {
            let value = self.value(id);
            (value.at, value.cols)
        };
        let Some(schedule) = Schedule::new(pass, machine.blocks, room, value) else { return Ok(None) };
        if let Err(fault) = schedule.check(machine) {
            debug_assert!(false, "{fault}");
            tracing::error!(%fault, "decode steps run kernel by kernel: their schedule has a fault");
            return Ok(None);
        }
        let (phases, weights) =
            (bytemuck::cast_slice(&schedule.phases), bytemuck::cast_slice(&schedule.weights));
        data.write_all([(0, phases), (schedule.parts.weights, weights)])?;
        Ok(Some(schedule))
    }
}
