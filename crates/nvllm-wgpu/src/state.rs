//! What a loaded model has on the device.

use wgpu::Buffer;

use crate::inputs::Inputs;
use crate::kv::WgpuKv;
use crate::sampler::Sampler;
use crate::slots::DeviceSlots;
use crate::weights::Weights;

/// What a loaded model has on the device.
pub(crate) struct DeviceState {
    pub arena: Vec<Buffer>,
    pub weights: Weights,
    pub kv: WgpuKv,
    pub inputs: Inputs,
    pub slots: DeviceSlots,
    pub sampler: Sampler,
    /// Bytes that the KV cache has beside itself.
    pub kv_scratch: usize,
}
