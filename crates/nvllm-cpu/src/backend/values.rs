//! The values and weights of a loaded model, as the kernels take them.

use nvllm_core::program::MemoryPlan;
use nvllm_core::{Limits, Program, ValueId, ValueKind, WeightId};

use super::arena::Arena;
use super::elem::act_elem;
use super::weights::Weights;
use crate::{Elem, NormWeight, Result, Rows, RowsMut};

pub(super) struct Values {
    pub programs: Vec<Program>,
    /// Where the values of each program lie.
    pub plans: Vec<MemoryPlan>,
    pub weights: Weights,
    pub arena: Arena,
    pub limits: Limits,
    /// Of the last step: its program, and its tokens, outputs and sequences.
    pub entry: usize,
    pub num_rows: [usize; 3],
}

impl Values {
    pub(super) fn program(&self) -> &Program {
        &self.programs[self.entry]
    }

    /// Rows and columns of a value in the last step.
    pub(super) fn shape(&self, id: ValueId) -> (usize, usize) {
        let [tokens, outputs, seqs] = self.num_rows;
        let value = self.program().value(id);
        (value.rows.resolve(tokens, outputs, seqs), value.cols)
    }

    fn elem(&self, id: ValueId) -> Elem {
        match self.program().value(id).kind {
            ValueKind::Act => act_elem(self.limits.activations),
            // Ids have 32 bits as well.
            ValueKind::F32 | ValueKind::I32 => Elem::F32,
        }
    }

    /// Byte offset and length of a value.
    fn place(&self, id: ValueId) -> (usize, usize) {
        let (num_rows, cols) = self.shape(id);
        (self.plans[self.entry].place(id).offset, num_rows * cols * self.elem(id).size())
    }

    /// A value's bytes as the last step left them.
    pub(super) fn bytes(&self, id: ValueId) -> &[u8] {
        let (offset, len) = self.place(id);
        self.arena.read(offset, len)
    }

    /// A node's output to write; taken once an op.
    #[allow(clippy::mut_from_ref, reason = "see Arena::write")]
    pub(super) fn bytes_mut(&self, id: ValueId) -> &mut [u8] {
        let (offset, len) = self.place(id);
        // SAFETY: `id` is an output of the node that runs. The plan lets no two values overlap that
        // live at one node, an op takes each output once at a time, and no slice outlives its op.
        unsafe { self.arena.write(offset, len) }
    }

    /// A value of 32-bit elements.
    pub(super) fn words<T: bytemuck::Pod>(&self, id: ValueId) -> &[T] {
        bytemuck::cast_slice(self.bytes(id))
    }

    /// A value to read as a matrix.
    pub(super) fn rows(&self, id: ValueId) -> Result<Rows<'_>> {
        let (num_rows, cols) = self.shape(id);
        Rows::new(self.bytes(id), self.elem(id), num_rows, cols)
    }

    /// A node's output to write as a matrix; taken once an op.
    pub(super) fn rows_mut(&self, id: ValueId) -> Result<RowsMut<'_>> {
        let (num_rows, cols) = self.shape(id);
        RowsMut::new(self.bytes_mut(id), self.elem(id), num_rows, cols)
    }

    /// A norm's weight.
    pub(super) fn norm(&self, id: WeightId) -> NormWeight<'_> {
        NormWeight { bytes: bytemuck::cast_slice(self.weights.vector(id)), elem: Elem::F32 }
    }
}
