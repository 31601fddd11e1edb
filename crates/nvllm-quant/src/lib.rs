//! Quantised weights: the checkpoints that people have, and how to make them.
//!
//! [`read`] brings a checkpoint of GPTQ, AWQ, bitsandbytes, compressed-tensors or FP8 blocks into
//! canonical weights ([`nvllm_core::weight`]). [`make`] rounds dense weights to a format. What a
//! format's numbers mean is core's business, and how they are multiplied is a backend's.

pub mod make;
pub mod read;
