//! From CUDA C++ to machine code, with or without a device: NVRTC alone suffices.

mod cache;
mod nvrtc;
mod resources;
mod sources;

pub use cache::KernelCache;
pub use nvrtc::{Compiled, Nvrtc, Target};
pub use resources::{Budget, Resources, budgets, resources};
pub use sources::{Source, sources};
