//! Ops of which an invocation makes an element, and the norm.

use nvllm_core::program::Node;
use nvllm_core::{OrderId, RopeSpec, WeightId};

use super::lowering::ANY;
use super::{Dim, Lowering, Stage};
use crate::error::Result;
use crate::gpu::Part;
use crate::kernel::Kernel;
use crate::shaders;
use crate::storage::Store;

/// Workgroups of 64 for so many columns.
pub(super) const fn columns(num: usize) -> Dim {
    Dim::Fixed(num.div_ceil(64))
}

impl Lowering<'_> {
    /// One launch, a row of workgroups for each row of the output, an invocation a column of
    /// `cols`.
    fn each_element(
        &self,
        node: &Node,
        (kernel, constants): (&Kernel, &str),
        params: &[usize],
        reads: &[Part<'_>],
        cols: usize,
    ) -> Result<Stage> {
        let out = node.outputs[0];
        let params: Vec<_> = params.iter().map(|&word| word as u32).collect();
        let parts: Vec<_> = reads.iter().copied().chain([self.value(out)]).collect();
        let grid = [columns(cols), Dim::rows(self.rows(out))];
        Ok(Stage::new(ANY, vec![self.launch(kernel, constants, &params, &parts, grid)?]))
    }

    pub(super) fn embed(&self, node: &Node, table: WeightId) -> Result<Stage> {
        let out = node.outputs[0];
        let cols = self.cols(out);
        let mut launches = Vec::new();
        for run in &self.weights.get(table).runs {
            let kernel = match run.of.store {
                Store::Dense(_) => &shaders::EMBED,
                Store::Coded(_) => &shaders::EMBED_CODED,
            };
            // Element by element, whatever the length of rows.
            let reader = run.of.by_elements();
            let constants = [
                shaders::round(self.rounds(out)),
                shaders::weight(&run.of.store, false, shaders::TABLE_SCALES),
                shaders::ordered(run.order.is_some()),
            ]
            .join("\n");
            for segment in &run.segments {
                let params = [cols, segment.first, segment.num_rows].into_iter().chain(reader);
                let params: Vec<_> = params.map(|word| word as u32).collect();
                let tokens = Part::whole(&self.inputs.tokens);
                let order = run.order.as_ref().map_or(tokens, Part::whole);
                let fixed = [tokens, order, Part::whole(&segment.buffer), self.value(out)];
                let parts: Vec<_> =
                    fixed.into_iter().chain(segment.scales.as_ref().map(Part::whole)).collect();
                let grid = [columns(cols), Dim::rows(self.rows(out))];
                launches.push(self.launch(kernel, &constants, &params, &parts, grid)?);
            }
        }
        Ok(Stage::new(ANY, launches))
    }

    pub(super) fn rms_norm(&self, at: usize, weight: WeightId, eps: f32) -> Result<Stage> {
        let node = &self.program.nodes[at];
        let (x, out) = (node.inputs[0], node.outputs[0]);
        let n = self.program.weights[weight.index()].num_elements();
        let parts = [self.value(x), Part::whole(self.weights.get(weight).vector()), self.value(out)];
        let grid = [Dim::Fixed(self.cols(out) / n), Dim::rows(self.rows(out))];
        let params = [n as u32, eps.to_bits()];
        let constants = shaders::round(self.rounds(out));
        let kernel = if n.is_multiple_of(4) { &shaders::RMS_NORM_WIDE } else { &shaders::RMS_NORM };
        let launch = self.launch(kernel, &constants, &params, &parts, grid)?;
        let order = OrderId("64 strided fours");
        if self.is_inside_next(at) {
            // The next node has it for one row.
            let launches = vec![launch.clone().only(self.rows(out), 2..=usize::MAX)];
            return Ok(Stage { order, launches, checked: Some(vec![launch]) });
        }
        Ok(Stage::new(order, vec![launch]))
    }

    pub(super) fn add(&self, node: &Node) -> Result<Stage> {
        let (reads, cols) = ([0, 1].map(|i| self.value(node.inputs[i])), self.cols(node.outputs[0]));
        let constants = shaders::round(self.rounds(node.outputs[0]));
        self.each_element(node, (&shaders::ADD, &constants), &[cols], &reads, cols)
    }

    pub(super) fn silu_mul(&self, node: &Node) -> Result<Stage> {
        let cols = self.cols(node.outputs[0]);
        let constants = shaders::round(self.rounds(node.outputs[0]));
        let reads = [self.value(node.inputs[0])];
        self.each_element(node, (&shaders::SILU_MUL, &constants), &[cols], &reads, cols)
    }

    pub(super) fn slice_cols(&self, node: &Node, start: usize, len: usize) -> Result<Stage> {
        let (x, kernel) = (node.inputs[0], (&shaders::SLICE_COLS, ""));
        self.each_element(node, kernel, &[self.cols(x), start, len], &[self.value(x)], len)
    }

    pub(super) fn gather_rows(&self, node: &Node) -> Result<Stage> {
        let (x, cols) = (node.inputs[0], self.cols(node.inputs[0]));
        let reads = [Part::whole(&self.inputs.buffer), self.value(x)];
        let params = [cols, self.inputs.layout.outputs / 4];
        self.each_element(node, (&shaders::GATHER_ROWS, ""), &params, &reads, cols)
    }

    pub(super) fn rope(&self, node: &Node, spec: &RopeSpec) -> Result<Stage> {
        let (x, out) = (node.inputs[0], node.outputs[0]);
        let cols = self.cols(out);
        let constants = shaders::round(self.rounds(out));
        let reads = [Part::whole(self.inputs.rotations(spec)), self.value(x)];
        let params = [cols, spec.head_dim / 2];
        self.each_element(node, (&shaders::ROPE, &constants), &params, &reads, cols / 2)
    }
}
