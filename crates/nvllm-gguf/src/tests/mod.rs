//! Files made byte by byte, and what becomes of them.

mod blocks;
mod config;
mod hostile;
mod metadata;
mod split;
mod weights;
mod write;
