//! What every step does first.

use nvllm_core::Rows;
use wgpu::ComputePass;

use crate::error::Result;
use crate::gpu::{Gpu, Part};
use crate::kernel::Kernel;
use crate::lower::{Dim, Dispatch, Extents};
use crate::shaders;
use crate::state::DeviceState;

/// The launches that every step begins with.
pub(crate) struct Begin {
    spread: Dispatch,
    slots: Dispatch,
    tokens: Dispatch,
}

impl Begin {
    pub(crate) fn new(gpu: &Gpu, state: &DeviceState) -> Result<Self> {
        let inputs = &state.inputs;
        let layout = &inputs.layout;
        let params = [layout.outputs, layout.resets, layout.source].map(|at| (at / 4) as u32);
        let params = gpu.params(&params)?;
        let buffers = [&params, &inputs.packed, &inputs.buffer, &state.slots.states, &inputs.tokens];
        let launch = |kernel: &Kernel, x| {
            let pipeline = gpu.pipeline(kernel, "")?;
            let group = gpu.bind_group(&pipeline, &buffers.map(Part::whole));
            Ok(Dispatch::new(pipeline, group, x, Dim::Fixed(1)))
        };
        Ok(Self {
            spread: launch(&shaders::SPREAD, Dim::Fixed(1))?,
            slots: launch(&shaders::TAKE_SLOTS, Dim::Fixed(1))?,
            tokens: launch(&shaders::TAKE_TOKENS, Dim::Rows { rows: Rows::TOKENS, per: 64 })?,
        })
    }

    /// Spreads so many parts of the inputs, and takes so many slots anew.
    pub(crate) fn run(
        &self,
        pass: &mut ComputePass<'_>,
        num_copies: usize,
        num_resets: usize,
        extents: Extents,
    ) {
        self.spread.run_at(pass, [num_copies as u32, 1]);
        self.slots.run_at(pass, [num_resets as u32, 1]);
        self.tokens.run(pass, extents);
    }
}
