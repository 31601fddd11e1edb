//! The CUDA backend: every op on an NVIDIA GPU, with the driver found at run time.
//!
//! **What.** [`CudaBackend`] compiles the kernels under `kernels/` for the device that it finds,
//! lowers a program to a list of launches once, at load, and runs that list every step. Decode
//! steps are replayed as CUDA graphs. The sampler runs on the device as well, so a step's token
//! feeds the next step without passing the host.
//!
//! **Why so.** The driver and the compiler are opened by name when they are wanted: one binary runs
//! where there is a GPU and where there is none, and [`count_devices`] says which. All memory is
//! planned and allocated at load. A step's inputs lie in one buffer, filled by one kernel; others
//! take their extents from it, so that one launch list serves every step of a size. Nothing is
//! summed in an order that depends on what else is in the step: an op's kernels, from one row to
//! thousands, share one order, and attention merges fixed chunks of keys in ascending order. No
//! floating-point atomics. Tables in `lower/` say which kernel takes which shape: 16-bit operands
//! go to tensor cores, and a general kernel takes what is left.
//!
//! **Absent on purpose.** No toolkit at build time or at run time beside NVRTC: kernels contain
//! their own conversions. No allocation while serving, but for copies of logits that a request asks
//! for and for graphs, which are captured between steps. No vendor library in the order-preserving
//! mode; in the other one it runs what it measures faster at, and is not needed. No configuration
//! from the environment.

mod backend;
mod coded;
pub mod compile;
mod cublaslt;
mod device;
mod device_profile;
mod error;
mod executable;
mod graphs;
mod inputs;
mod kernels;
mod kv;
mod launch;
mod lower;
mod mapped;
mod measured;
mod memory;
mod modules;
mod plan;
mod profile;
mod rope;
mod row_tensor;
mod sampler;
mod slots;
mod step_buffers;
mod step_clock;
mod tensor_map;
mod upload;
mod weights;
mod work_lists;

pub use backend::{CudaBackend, CudaOptions};
pub use cublaslt::cublaslt_version;
pub use device::{DeviceFacts, count_devices, device_facts};
pub use device_profile::DeviceProfile;
pub use error::{CudaError, Result};
pub use executable::{CudaExecutable, DecodePass};
pub use lower::{LISTED_COLS, Vendor, dynamic_shared};
