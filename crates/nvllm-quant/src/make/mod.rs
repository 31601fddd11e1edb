//! Dense weights in a quantised format.
//!
//! [`Format`] says what a tensor becomes and which value is whose nearest. [`quantize`] rounds a
//! tensor to it, [`Quantized`] does so for a whole source while it is loaded, and a [`Recipe`] says
//! which tensors of a model are meant.
//!
//! Deliberately absent: formats with zero points, and codes of less than 4 bits.

mod format;
mod recipe;
mod round;
mod source;

pub use format::Format;
pub use recipe::Recipe;
pub use round::quantize;
pub use source::Quantized;
