//! From CUDA C++ to machine code, with or without a device: NVRTC alone suffices.

mod archive;
mod cache;
mod content;
mod entries;
mod images;
mod nvrtc;
mod resources;
mod sources;
mod target;

pub use archive::{Archive, archive};
pub use cache::KernelCache;
pub(crate) use content::{name_of, sources_name};
pub use entries::{Entry, USUAL_THREADS, entries};
pub(crate) use images::{Images, load_or_anew};
pub use nvrtc::{Compiled, Nvrtc};
pub use resources::{Budget, Resources, budgets, resources, static_limit};
pub use sources::{Source, sources};
pub use target::Target;
