//! What a pass's kernel is given: its phases, their weights, and where all of it lies.

use std::collections::HashMap;
use std::ops::Range;

use nvllm_core::ValueId;

use super::limits::{MAPS, STATE_BYTES};
use super::packets::{packet_bytes, places};
use super::phase::{ATTENTION, LINEAR, NO_TAG, Phase, SILU, Weight, spread};
use super::record::Pass;
use crate::kernels::linear::linear_order::RANGES;
use crate::memory::Address;
use crate::tensor_map::{MAP_BYTES, RangeBox};

/// The records of a pass, in the order in which they lie in its memory.
#[derive(Clone)]
pub(super) struct Schedule {
    pub phases: Vec<Phase>,
    pub weights: Vec<Weight>,
    /// The tensor maps of each weight, to be made of these.
    pub maps: Vec<WeightMaps>,
    pub parts: Parts,
    /// The memory of the pass.
    pub room: Range<Address>,
}

/// A weight as the copy engine is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WeightMaps {
    pub at: Address,
    /// Rows, with gate above up both, and columns.
    pub rows: usize,
    pub cols: usize,
    pub boxes: [RangeBox; MAPS],
}

/// Bytes from the begin of the memory to what follows the phases.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub weights: usize,
    pub maps: usize,
    pub state: usize,
    pub counters: usize,
    pub packets: usize,
}

impl Schedule {
    /// The schedule of `pass` on `blocks` blocks, of which `units` attend to a chunk of
    /// `unit_bytes`; None if `room` or a record is too small. `value` has the address of a value as
    /// plain rows, and its columns.
    pub(super) fn new(
        pass: &mut Pass,
        blocks: usize,
        [units, unit_bytes]: [usize; 2],
        room: Range<Address>,
        value: impl Fn(ValueId) -> (Address, usize),
    ) -> Option<Self> {
        let lives = pass.tag(|id| packet_bytes(value(id).1));
        let (values, lives): (Vec<_>, Vec<_>) = lives.into_iter().unzip();
        let (offsets, packet_bytes) = places(&lives);

        let mut phases: Vec<Phase> = pass.phases.iter().map(|recorded| recorded.phase).collect();
        spread(&mut phases, blocks, units, unit_bytes);
        let linear = || pass.phases.iter().zip(&phases).filter(|(_, phase)| phase.kind == LINEAR);
        let weights = linear().map(|(_, phase)| phase.weight()).collect::<Option<Vec<_>>>()?;
        let maps: Vec<WeightMaps> = linear().map(|(of, phase)| maps(of.weight, phase)).collect();

        let of_phases = size_of_val(&*phases);
        let of_weights = size_of_val(&*weights).next_multiple_of(MAP_BYTES);
        let state = of_phases + of_weights + maps.len() * MAPS * MAP_BYTES;
        let counters = state + STATE_BYTES;
        let packets = counters + phases.len() * STATE_BYTES;
        let parts = Parts { weights: of_phases, maps: of_phases + of_weights, state, counters, packets };
        if room.start + (packets + packet_bytes) as Address > room.end {
            return None;
        }
        let at = |offset: usize| room.start + (packets + offset) as Address;
        let packets: HashMap<ValueId, Address> =
            values.iter().zip(offsets).map(|(&id, offset)| (id, at(offset))).collect();
        let place = |id: ValueId, tag: i32| if tag == NO_TAG { value(id).0 } else { packets[&id] };
        for (phase, recorded) in phases.iter_mut().zip(&pass.phases) {
            phase.x = place(recorded.x, phase.x_tag);
            phase.y = place(recorded.y, phase.y_tag);
            phase.residual = recorded.residual.map_or(0, |id| place(id, phase.residual_tag));
        }
        Some(Self { phases, weights, maps, parts, room })
    }

    /// The first phase of attention, and how many there are.
    pub(super) fn attention(&self) -> (usize, usize) {
        let attends = |phase: &&Phase| phase.kind == ATTENTION;
        let first = self.phases.iter().position(|phase| attends(&phase)).unwrap_or(0);
        (first, self.phases.iter().filter(attends).count())
    }

    /// Bytes of the longest row that a linear layer multiplies.
    pub(super) fn row_bytes(&self) -> usize {
        let lens = self.phases.iter().map(|phase| RANGES * phase.len as usize * 2);
        lens.max().unwrap_or(0)
    }
}

fn maps(at: Address, phase: &Phase) -> WeightMaps {
    let halves = if phase.flags & SILU == 0 { 1 } else { 2 };
    WeightMaps { at, rows: halves * phase.outputs as usize, cols: phase.k as usize, boxes: phase.boxes() }
}
