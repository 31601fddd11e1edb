//! Qwen3, dense and MoE
