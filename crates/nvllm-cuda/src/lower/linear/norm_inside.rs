//! A norm and the linear layer after it as one stage, for few rows.

use nvllm_core::Op;

use super::few::{NORM_COLS, NORM_ROWS, Norm, small, small_m_with};
use super::layer::{DeviceLimits, Linear, Parts, SPLIT8};
use crate::error::Result;
use crate::kernels::linear::small_m::STATIC_SHARED;
use crate::lower::Lowering;
use crate::lower::choice::Chosen;
use crate::lower::rows::BLOCK128;
use crate::lower::stage::Stage;

impl Lowering<'_> {
    /// The stages of node `at` and the linear layer after it, if that is a norm which the layer
    /// makes for itself; none for more rows than it does so for. The bits are those of the two
    /// kernels one after the other.
    pub(in crate::lower) fn norm_inside(&self, at: usize) -> Result<Vec<Stage>> {
        if !self.program.is_norm_of_next(at) {
            return Ok(Vec::new());
        }
        let norm = &self.program.nodes[at];
        let (Op::RmsNorm { weight, eps }, Some(Parts { x: normed, y, .. })) = (&norm.op, self.parts(at + 1))
        else {
            return Ok(Vec::new());
        };
        let x = self.value(norm.inputs[0]);
        let cols = self.program.weights[weight.index()].num_rows();
        let whole = cols == normed.cols && normed.dtype == x.dtype;
        let norm = Norm { weight: self.weights.vector(*weight).narrow, eps: *eps };
        if !whole || norm.weight == 0 {
            return Ok(Vec::new());
        }
        let chosen = match (self.coded_layer(at + 1), self.layer(at + 1)) {
            (Some(layer), _) => layer.normed(self, x, norm)?,
            (None, Some(layer)) => self.normed(Linear { x, ..layer }, norm)?,
            (None, None) => Vec::new(),
        };
        let stage = |chosen: Chosen| Stage::of(at..at + 2, y.rows, vec![BLOCK128, chosen.order], chosen);
        Ok(chosen.into_iter().map(stage).collect())
    }

    /// A dense layer with the norm of x in every block; none if its kernel cannot.
    fn normed(&self, layer: Linear, norm: Norm) -> Result<Vec<Chosen>> {
        let shared = layer.device.shared.saturating_sub(STATIC_SHARED);
        let layer = Linear { device: DeviceLimits { shared, ..layer.device }, ..layer };
        if !(layer.fast() && layer.k() <= NORM_COLS && small(&layer, 8).is_some()) {
            return Ok(Vec::new());
        }
        let launches = small_m_with(self, &layer, 8, Some(norm))?;
        Ok(vec![Chosen { most_rows: NORM_ROWS, order: SPLIT8, launches }])
    }
}
