//! Quantised checkpoints of Hugging Face's layout as canonical weights.
