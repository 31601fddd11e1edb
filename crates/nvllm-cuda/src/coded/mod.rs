//! Coded weights in device memory. `kernels/common/coded.cuh` reads what is written here.
//!
//! Every public format becomes one of a few: codes of 4 bits or of 8 (5 and 6 bits are widened),
//! each row beginning on a line of 16 bytes, and one scale, with an offset where there is one, for
//! each row and block of columns. Scales of several rows are repeated, those of two levels
//! multiplied, all of them in f32: a kernel that has no conversion to make gains more than the
//! bytes cost. They lie in octets, the 8 rows of an octet together, because a tensor core's tile
//! takes them so.
//!
//! Parts of a weight that share a format are stacked into one run of rows; each run has launches of
//! its own.

use std::sync::Arc;

use nvllm_core::CanonicalTensor;

use crate::device::Device;
use crate::error::Result;
use crate::memory::{Address, Buffer};

pub(crate) use form::{Code, Extent, Form, Offset, runs};
use pack::{codes_of, scales_of};

mod form;
mod pack;
#[cfg(test)]
mod tests;

/// A run of rows in device memory.
pub(crate) struct Run {
    pub of: Extent,
    /// Codes, scales with offsets, table, column order.
    buffers: [Buffer; 4],
    /// The input's scale where it is static, else 0.
    pub input_scale: f32,
}

impl Run {
    /// Packs `parts`, the tensors of the run, and copies them to the device.
    pub(crate) fn load(device: &Arc<Device>, of: Extent, parts: &[CanonicalTensor]) -> Result<Self> {
        let [codes, scales, table, order] = of.form.sizes(of.rows.len()).map(|len| Buffer::new(device, len));
        let buffers = [codes?, scales?, table?, order?];
        let mut at = 0;
        for part in parts {
            let bytes = codes_of(&of.form, part);
            buffers[0].write(at, &bytes)?;
            at += bytes.len();
        }
        buffers[1].write(0, &scales_of(&of.form, parts))?;
        if let Some(table) = of.form.table {
            buffers[2].write(0, bytemuck::cast_slice(table.values()))?;
        }
        let first = parts.first();
        if let Some(order) = first.and_then(|part| part.k_perm.as_ref()) {
            buffers[3].write(0, bytemuck::cast_slice(order))?;
        }
        let input_scale = first.and_then(|part| part.act_scale).unwrap_or(0.0);
        Ok(Self { of, buffers, input_scale })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buffers.iter().map(Buffer::len).sum()
    }

    /// Codes, scales and table, 0 for one that the form does not have.
    pub(crate) fn addresses(&self) -> [Address; 3] {
        [0, 1, 2].map(|i| self.buffers[i].at(0))
    }

    /// The column order, or 0.
    pub(crate) fn order(&self) -> Address {
        self.buffers[3].at(0)
    }
}
