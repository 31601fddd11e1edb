//! What is computed once a step and used by every layer: rotations by position, and where each
//! sequence's keys lie.

use nvllm_core::RopeSpec;
use nvllm_core::host::{Batch, BatchSeq};

use crate::SequenceQueries;

#[derive(Default)]
pub(super) struct StepTables {
    positions: Vec<u32>,
    /// Cosines and sines `[rows, head_dim / 2]` of each rotation that the program has.
    rotations: Vec<Rotation>,
    /// Rotations of this step; later ones are of an earlier step and are written over.
    num_fresh: usize,
}

struct Rotation {
    spec: RopeSpec,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl StepTables {
    pub(super) fn begin(&mut self, batch: &Batch) {
        self.positions.clone_from(&batch.positions);
        self.num_fresh = 0;
    }

    pub(super) fn bytes(&self) -> usize {
        self.rotations.iter().map(|r| size_of_val(&r.cos[..]) + size_of_val(&r.sin[..])).sum()
    }

    /// Cosines and sines of `spec` at this step's positions.
    pub(super) fn rotation(&mut self, spec: &RopeSpec) -> (&[f32], &[f32]) {
        let known = self.rotations[..self.num_fresh].iter().position(|r| r.spec == *spec);
        let at = known.unwrap_or_else(|| self.compute(spec));
        (&self.rotations[at].cos, &self.rotations[at].sin)
    }

    fn compute(&mut self, spec: &RopeSpec) -> usize {
        let at = self.num_fresh;
        if at == self.rotations.len() {
            self.rotations.push(Rotation { spec: spec.clone(), cos: Vec::new(), sin: Vec::new() });
        }
        let Rotation { spec: known, cos, sin } = &mut self.rotations[at];
        known.clone_from(spec);
        cos.clear();
        sin.clear();
        let inv_freq = spec.inv_freq();
        for &position in &self.positions {
            for [c, s] in spec.rotation(position, &inv_freq) {
                cos.push(c);
                sin.push(s);
            }
        }
        self.num_fresh += 1;
        at
    }
}

/// Where the new tokens of each sequence and its keys lie, for one KV group.
pub(super) fn queries<'a>(batch: &'a Batch, group: usize) -> Vec<SequenceQueries<'a>> {
    let one = |seq: &'a BatchSeq| SequenceQueries {
        first_row: seq.first_row,
        num_new: seq.num_rows,
        first_position: seq.kv_start,
        blocks: bytemuck::cast_slice(&seq.block_tables[group]),
    };
    batch.seqs.iter().map(one).collect()
}
