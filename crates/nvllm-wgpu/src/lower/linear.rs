//! Linear layers, by themselves or with what is fused to them.

use nvllm_core::program::Node;
use nvllm_core::{OrderId, WeightId};

use super::{Dim, Lowering, Stage};
use crate::error::Result;
use crate::gpu::Part;
use crate::shaders::{self, Epilogue};

/// Columns that a workgroup makes.
pub(super) const COLS: usize = 4;

/// Rows that a workgroup makes, with the most rows for which a launch of so many is made: all kinds
/// sum in one order.
const ROWS: [(usize, usize); 3] = [(1, 1), (4, 4), (8, usize::MAX)];

/// Of products over k columns, one after another.
pub(super) const ELEMENTS: OrderId = OrderId("64 strided");
/// Of products over chunks of 16 bytes.
const CHUNKS: OrderId = OrderId("64 strided chunks");

impl Lowering<'_> {
    /// `residual` is added to the product, which is `gated` if the weight has two halves.
    pub(super) fn linear(
        &self,
        node: &Node,
        weight: WeightId,
        bias: Option<WeightId>,
        gated: bool,
    ) -> Result<Stage> {
        let (x, out) = (node.inputs[0], node.outputs[0]);
        let residual = node.inputs.get(1);
        let (rows, weight) = (self.rows(out), self.weights.get(weight));
        let wide = (self.cols(x) * weight.dtype.size()).is_multiple_of(16);
        let (kernel, order) =
            if wide { (&shaders::LINEAR_WIDE, CHUNKS) } else { (&shaders::LINEAR, ELEMENTS) };
        let epilogue = Epilogue { bias: bias.is_some(), residual: residual.is_some(), gated };
        let mut launches = Vec::new();
        for segment in &weight.segments {
            let num_cols = if gated { self.cols(out) } else { segment.num_rows };
            let params =
                [self.cols(x), self.cols(out), segment.first, num_cols, rows.times, Self::count_word(rows)];
            let weight_part = Part::whole(&segment.buffer);
            let parts = [
                Part::whole(&self.inputs.buffer),
                self.value(x),
                weight_part,
                bias.map_or(weight_part, |bias| Part::whole(self.weights.get(bias).vector())),
                residual.map_or(weight_part, |&residual| self.value(residual)),
                self.value(out),
            ];
            let mut least = 1;
            for (per, most) in ROWS {
                let constants = [
                    shaders::round(self.rounds(out)),
                    shaders::weight(weight.dtype),
                    shaders::tile(per, COLS, epilogue),
                ];
                let grid = [Dim::Fixed(num_cols.div_ceil(COLS)), Dim::Rows { rows, per }];
                let params = params.map(|word| word as u32);
                let launch = self.launch(kernel, &constants.join("\n"), &params, &parts, grid)?;
                launches.push(launch.only(rows, least..=most));
                least = most.saturating_add(1);
            }
        }
        Ok(Stage { order, launches })
    }
}
