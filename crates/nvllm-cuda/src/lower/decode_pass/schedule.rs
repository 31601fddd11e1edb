//! What a pass's kernel is given: its phases, their weights, and where all of it lies.

use std::collections::HashMap;
use std::ops::Range;

use nvllm_core::ValueId;

use super::limits::STATE_BYTES;
use super::packets::{packet_bytes, places};
use super::phase::{LINEAR, NO_TAG, Phase, Weight, spread};
use super::record::{Pass, Recorded};
use crate::memory::Address;

/// The records of a pass, in the order in which they lie in its memory.
#[derive(Clone)]
pub(super) struct Schedule {
    pub phases: Vec<Phase>,
    pub weights: Vec<Weight>,
    pub parts: Parts,
    /// The memory of the pass.
    pub room: Range<Address>,
}

/// Bytes from the begin of the memory to what follows the phases.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub weights: usize,
    pub state: usize,
    pub counters: usize,
    pub packets: usize,
}

impl Schedule {
    /// The schedule of `pass` on `blocks` blocks; None if `room` is too little. `value` has the
    /// address of a value as plain rows, and its columns.
    pub(super) fn new(
        pass: &mut Pass,
        blocks: usize,
        room: Range<Address>,
        value: impl Fn(ValueId) -> (Address, usize),
    ) -> Option<Self> {
        let lives = pass.tag(|id| packet_bytes(value(id).1));
        let (values, lives): (Vec<_>, Vec<_>) = lives.into_iter().unzip();
        let (offsets, packet_bytes) = places(&lives);

        let mut phases: Vec<Phase> = pass.phases.iter().map(|recorded| recorded.phase).collect();
        spread(&mut phases, blocks);
        let weight = |(Recorded { weight, .. }, phase): (&Recorded, &Phase)| {
            let Phase { k, outputs, flags, first_block, tiles, .. } = *phase;
            Weight { w: *weight, k, outputs, flags, first_block, tiles, padding: 0 }
        };
        let linear = pass.phases.iter().zip(&phases).filter(|(_, phase)| phase.kind == LINEAR);
        let weights: Vec<Weight> = linear.map(weight).collect();

        let of_phases = size_of_val(&*phases);
        let state = of_phases + size_of_val(&*weights).next_multiple_of(128);
        let counters = state + STATE_BYTES;
        let packets = counters + phases.len() * STATE_BYTES;
        let parts = Parts { weights: of_phases, state, counters, packets };
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
        Some(Self { phases, weights, parts, room })
    }
}
