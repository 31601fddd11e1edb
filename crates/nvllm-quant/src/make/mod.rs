//! Dense weights in a quantised format.
//!
//! [`Format`] says what a tensor becomes and which value is whose nearest. [`quantize`] rounds a
//! tensor to it, [`Quantized`] does so for a whole source while it is loaded, and a [`Recipe`] says
//! which tensors of a model are meant. [`gptq()`] and [`awq()`] round with regard to the inputs
//! that a layer has seen, which a [`Hessian`] sums up. [`Layout`] is how other engines' files hold
//! the result.
//!
//! Deliberately absent: formats with zero points, and codes of less than 4 bits.

mod awq;
mod format;
mod gptq;
mod hessian;
mod layout;
mod parallel;
mod recipe;
mod round;
mod rows;
mod source;

pub use awq::{awq, awq_divided, awq_factors};
pub use format::Format;
pub use gptq::{GptqFactor, GptqOptions, gptq};
pub use hessian::Hessian;
pub use layout::{Entry, Layout};
pub use recipe::{Output, Recipe};
pub use round::quantize;
pub use source::Quantized;

use rows::Rounded;
