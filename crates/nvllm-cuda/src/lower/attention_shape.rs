//! Which shapes of attention the kernels take.

use nvllm_core::{AttentionSpec, DType, KvFormat, Limits};

/// Columns of the widest head that the general kernel takes.
pub(crate) use crate::kernels::paged_attention::general::MAX_HEAD_DIM;

/// Whether the shape is one of the fast kernels'.
pub(crate) fn fast_shape(spec: &AttentionSpec) -> bool {
    matches!(spec.head_dim, 64 | 128)
        && spec.num_heads.is_multiple_of(spec.num_kv_heads)
        && spec.num_heads / spec.num_kv_heads <= 16
}

/// Whether the fast kernels take it: 16-bit queries, keys and values of 16 bits or codes.
pub(crate) fn attends_fast(spec: &AttentionSpec, limits: &Limits) -> bool {
    fast_shape(spec) && limits.activations.dtype() == DType::Bf16 && limits.kv_format != KvFormat::F32
}
