//! Files made byte by byte, and what becomes of them.

mod hostile;
mod metadata;
mod split;
mod write;
