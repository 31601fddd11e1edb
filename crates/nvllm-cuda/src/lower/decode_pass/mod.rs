//! A whole decode step in one launch: every node behind the embedding as phases of a persistent
//! kernel (kernels/decode_pass/).

mod packets;
mod phase;
mod record;

use std::collections::HashMap;

use nvllm_core::{KvFormat, Limits, Op, Program, Rows, RowsOf, ValueId};

use self::phase::{LINEAR, NO_TAG, Phase, Weight, spread};
use self::record::{Pass, Recorded};
use super::stage::Stage;
use super::{Lowering, attends_fast};
use crate::compile::Target;
use crate::error::Result;
use crate::launch::{Args, Dim, Extents, Launch};
use crate::memory::Address;

/// Rows at most.
const MOST_ROWS: usize = 2;

/// Shared memory for rows of x, and in all but for the list of weights, as decode_pass.cu has it.
const SIDE_BYTES: usize = 65_536;
const SHARED: usize = 206_848;

/// Static shared memory, and to spare.
const STATIC_SHARED: usize = 2048;

/// Bytes of what lives from launch to launch, and of a counter: `PassState` and `Counter`.
const STATE_BYTES: usize = 128;

/// Columns of the widest row that a block makes the norm of.
const NORM_COLS: usize = 4096;

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

/// Bytes of a value of so many columns as packets: two elements and a tag in 8 bytes.
const fn packet_bytes(cols: usize) -> usize {
    (MOST_ROWS * cols * 4).next_multiple_of(128)
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

        let Some(at_of) = self.upload(&mut pass, facts.multiprocessors)? else { return Ok(None) };
        let runs = if pass.widest_norm <= 1024 { 1 } else { 4 };
        let name = format!("decode_pass_d{}_norm{runs}", attention.spec.head_dim);
        let rows = |of| Rows { of, times: 1 };
        let (layout, list, spec) = (&self.inputs.layout, &attention.list, &attention.spec);
        let args = Args::new()
            .ptr(at_of.phases)
            .ptr(at_of.weights)
            .int(weights)
            .ptr(at_of.state)
            .ptr(at_of.counters)
            .int(pass.phases.len())
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
        let launch = Launch::new(&function, blocks, 256, args).with_shared(shared as u32).early();
        Ok(Some(Stage {
            nodes: at..self.program.nodes.len(),
            rows: Rows::TOKENS,
            most_rows,
            only: decodes,
            orders: pass.orders,
            launches: vec![launch],
        }))
    }

    /// Writes the pass to its memory; None if there is too little.
    fn upload(&self, pass: &mut Pass, blocks: usize) -> Result<Option<DataAt>> {
        let lives = pass.tag(|id| packet_bytes(self.program.value(id).cols));
        let (values, lives): (Vec<_>, Vec<_>) = lives.into_iter().unzip();
        let (offsets, packet_bytes) = packets::places(&lives);

        let mut phases: Vec<Phase> = pass.phases.iter().map(|recorded| recorded.phase).collect();
        spread(&mut phases, blocks);
        let weight = |(Recorded { weight, .. }, phase): (&Recorded, &Phase)| {
            let Phase { k, outputs, flags, first_block, tiles, .. } = *phase;
            Weight { w: *weight, k, outputs, flags, first_block, tiles, padding: 0 }
        };
        let linear = pass.phases.iter().zip(&phases).filter(|(_, phase)| phase.kind == LINEAR);
        let weights: Vec<Weight> = linear.map(weight).collect();

        let [of_phases, of_weights] = [size_of_val(&*phases), size_of_val(&*weights).next_multiple_of(128)];
        let before = of_phases + of_weights + (1 + phases.len()) * STATE_BYTES;
        let data = self.pass;
        if before + packet_bytes > data.len() {
            return Ok(None);
        }
        let packets: HashMap<ValueId, Address> =
            values.iter().zip(offsets).map(|(&id, offset)| (id, data.at(before + offset))).collect();
        let place = |id: ValueId, tag: i32| if tag == NO_TAG { self.value(id).at } else { packets[&id] };
        for (phase, recorded) in phases.iter_mut().zip(&pass.phases) {
            phase.x = place(recorded.x, phase.x_tag);
            phase.y = place(recorded.y, phase.y_tag);
            phase.residual = recorded.residual.map_or(0, |id| place(id, phase.residual_tag));
        }
        data.write_all([(0, bytemuck::cast_slice(&phases)), (of_phases, bytemuck::cast_slice(&weights))])?;
        let at = DataAt {
            phases: data.at(0),
            weights: data.at(of_phases),
            state: data.at(of_phases + of_weights),
            counters: data.at(of_phases + of_weights + STATE_BYTES),
        };
        Ok(Some(at))
    }
}

/// Where the parts of a pass lie.
struct DataAt {
    phases: Address,
    weights: Address,
    state: Address,
    counters: Address,
}
