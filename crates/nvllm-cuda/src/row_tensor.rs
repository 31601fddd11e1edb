//! A row of a step's output as a tensor.

use std::sync::Arc;

use nvllm_core::{DType, HostTensor, Result, Tensor};

use crate::device::Device;
use crate::memory::Buffer;

/// One row of a program's output, on the device until it is asked for: on any thread, beside the
/// thread that runs steps.
///
/// The step that wrote the rows was collected before the tensor was made, and nothing writes them
/// again. What is left is a copy on the stream for copies, which the driver lets every thread use,
/// and freeing, which waits for it.
pub(crate) struct RowTensor {
    pub device: Arc<Device>,
    pub rows: Arc<Buffer>,
    pub at: usize,
    pub shape: [usize; 1],
    pub dtype: DType,
}

impl Tensor for RowTensor {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn to_host(&self) -> Result<HostTensor> {
        self.device.bind()?;
        let mut bytes = vec![0; self.shape[0] * self.dtype.size()];
        self.rows.read(&self.device.copies, self.at, &mut bytes)?;
        Ok(HostTensor::from_bytes(self.shape, self.dtype, bytes))
    }
}
