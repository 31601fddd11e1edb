//! The portable GPU backend: Vulkan, Metal and DX12 through wgpu.
//!
//! A program becomes a list of launches when a model is loaded: bind groups, parameters and
//! pipelines are made once. A step is one command encoder: its inputs are uploaded packed
//! (`nvllm_core::device`), spread by a shader, and every node of the program launches one shader or
//! a few. The sampler runs behind them, and the token goes to the sequence's slot on the device, so
//! that the next step can follow before the host has seen it.
//!
//! - **Values** are f32 in memory and, under bf16 activations, rounded to bf16 where they are
//!   stored. WGSL has no 16-bit storage, and values are small beside weights.
//! - **Weights** lie as the checkpoint has them, or as codes of 4 and 8 bits with f32 scales
//!   (`coded.rs`); shaders unpack them. A weight is split by rows, and a layer's cache by blocks,
//!   where a shader sees less of a buffer. What a format wants done to its input is a launch.
//! - **Order of sums**: a function of the number of columns, or of the absolute KV position. Each
//!   kernel says its own.
//! - **No f64**: what that means for log-probabilities and draws is said in `nvllm_core::sampling`.
//! - **A lost device** ends the steps in flight, and all later ones, with its one error.
//! - **Launches** bound a small step: what a linear layer feeds is in it, and for a step of one row
//!   the norm before it too, and all of attention is one launch. A layer is five.
//! - **Many rows** share what a linear layer reads: it is made in tiles, with the bits of the
//!   kernels for few rows.
//!
//! Deliberately absent: cooperative matrices and subgroups (ARCHITECTURE.md says why).

mod adapter;
mod adapter_profile;
mod backend;
mod begin;
mod coded;
mod error;
mod executable;
mod gpu;
mod inputs;
mod kernel;
mod kv;
mod lower;
mod options;
mod pipelines;
mod plan;
mod profile;
mod rates;
mod rows;
mod sampler;
mod shaders;
mod slots;
mod split;
mod state;
mod storage;
mod weights;

pub use adapter::{AdapterFacts, adapters};
pub use adapter_profile::AdapterProfile;
pub use backend::WgpuBackend;
pub use error::WgpuError;
pub use options::WgpuOptions;
