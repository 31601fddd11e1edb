//! Weights: what a model declares, what a checkpoint delivers, and the canonical form between them.

mod act;
mod adapt;
mod arranged;
mod checkpoint;
mod decl;
mod dense;
mod dequantized;
mod expand;
mod format;
mod format_name;
mod groups;
mod in_parallel;
mod info;
mod loaded;
mod mapped;
pub mod pack;
pub mod public;
mod safetensors;
mod source;
mod synthetic;
pub mod table;
pub mod tensor;
mod tensor_info;
#[cfg(test)]
mod tests;

pub use act::{ActQuant, InputQuant};
pub use arranged::{Arranged, Place};
pub use checkpoint::{Checkpoint, RawTensor};
pub use decl::{AxisRole, WeightDecl, WeightPart};
pub use dense::DenseSource;
pub use dequantized::Dequantized;
pub use format::{Code, Offset, ScaleType, Scales, SecondScales, WHOLE, WeightFormat};
pub use in_parallel::in_parallel;
pub use info::WeightInfo;
pub use loaded::Weight;
pub use mapped::map_file;
pub use public::PUBLIC;
pub use safetensors::Safetensors;
pub use source::WeightSource;
pub use synthetic::SyntheticSource;
pub use table::Table;
pub use tensor::CanonicalTensor;
pub use tensor_info::{TensorInfo, formats};
