//! Ops of a mixture of experts.

use nvllm_core::program::Node;
use nvllm_core::{OrderId, WeightId};

use super::elementwise::columns;
use super::linear::{COLS, order_of};
use super::{Dim, Lowering, Stage};
use crate::error::Result;
use crate::gpu::Part;
use crate::shaders;
use crate::storage::Store;

/// Sums of few terms.
const ASCENDING: OrderId = OrderId("ascending");

impl Lowering<'_> {
    pub(super) fn top_k(&self, node: &Node, k: usize, renormalize: bool) -> Result<Stage> {
        let x = node.inputs[0];
        let params = [self.cols(x) as u32, k as u32, u32::from(renormalize)];
        let parts = [x, node.outputs[0], node.outputs[1]].map(|id| self.value(id));
        let grid = [Dim::Fixed(1), Dim::rows(self.rows(x))];
        Ok(Stage::new(ASCENDING, vec![self.launch(&shaders::TOP_K, "", &params, &parts, grid)?]))
    }

    pub(super) fn expert_linear(&self, node: &Node, weight: WeightId) -> Result<Stage> {
        let (x, ids, out) = (node.inputs[0], node.inputs[1], node.outputs[0]);
        let times = self.rows(ids).times / self.rows(x).times;
        let weight = self.weights.get(weight);
        let mut launches = Vec::new();
        for run in &weight.runs {
            let (before, x) = self.input(x, run)?;
            launches.extend(before);
            let of = &run.of;
            let kernel = shaders::EXPERT_LINEAR.of(matches!(of.store, Store::Coded(_)), of.is_wide());
            let constants = [
                shaders::round(self.rounds(out)),
                shaders::weight(&of.store, of.is_wide(), shaders::TABLE_SCALES),
                shaders::held(0, 0, of.per()),
            ]
            .join("\n");
            for segment in &run.segments {
                let fixed = [x.cols, self.cols(out), segment.first, segment.num_rows, times];
                let params = fixed.into_iter().chain(of.reader_params()).map(|word| word as u32);
                let fixed = [self.value(ids), x.part, Part::whole(&segment.buffer), self.value(out)];
                let parts: Vec<_> =
                    fixed.into_iter().chain(segment.scales.as_ref().map(Part::whole)).collect();
                let grid = [Dim::Fixed(self.cols(out).div_ceil(COLS)), Dim::rows(self.rows(out))];
                let params: Vec<_> = params.collect();
                launches.push(self.launch(kernel, &constants, &params, &parts, grid)?);
            }
        }
        Ok(Stage::new(order_of(weight), launches))
    }

    pub(super) fn weighted_sum(&self, node: &Node) -> Result<Stage> {
        let (x, weights, out) = (node.inputs[0], node.inputs[1], node.outputs[0]);
        let params = [self.cols(out) as u32, (self.rows(x).times / self.rows(out).times) as u32];
        let parts = [x, weights, out].map(|id| self.value(id));
        let grid = [columns(self.cols(out)), Dim::rows(self.rows(out))];
        let constants = shaders::round(self.rounds(out));
        let launch = self.launch(&shaders::WEIGHTED_SUM, &constants, &params, &parts, grid)?;
        Ok(Stage::new(ASCENDING, vec![launch]))
    }
}
