//! What every backend is held to: the tests name the backends.

pub mod fixtures;
pub mod metamorphic;
pub mod text;
pub mod verify;
