//! Attention of few rows over long sequences: a workgroup for each chunk, whose parts a second
//! launch puts together.

use nvllm_core::{AttentionSpec, Limits, Op, Program};

/// Positions of a chunk, as paged_attention/part.wgsl has it.
pub(crate) const CHUNK: usize = 256;

/// Most rows whose sequences are split: more fill a GPU as they are.
const MOST_ROWS: usize = 8;

/// Most bytes that parts take.
const MOST_BYTES: usize = 32 << 20;

/// Chunks of the longest sequence.
pub(crate) const fn chunks(limits: &Limits) -> usize {
    limits.context.div_ceil(CHUNK)
}

fn row_bytes(spec: &AttentionSpec, limits: &Limits) -> usize {
    let part = (spec.head_dim + 4) * size_of::<f32>();
    spec.num_heads.saturating_mul(chunks(limits)).saturating_mul(part)
}

/// Rows up to which sequences are split; 0 if none ever is.
pub(crate) fn rows(spec: &AttentionSpec, limits: &Limits) -> usize {
    if chunks(limits) < 2 {
        return 0;
    }
    (MOST_BYTES / row_bytes(spec, limits).max(1)).min(MOST_ROWS).min(limits.step_tokens)
}

/// Bytes of the parts of every attention in `programs`.
pub(crate) fn bytes(programs: &[Program], limits: &Limits) -> usize {
    let nodes = programs.iter().flat_map(|program| &program.nodes);
    let one = |op: &Op| match op {
        Op::PagedAttention { spec, .. } | Op::Attention { spec, .. } => {
            rows(spec, limits) * row_bytes(spec, limits)
        }
        _ => 0,
    };
    nodes.map(|node| one(&node.op)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use nvllm_core::Activations;

    use super::*;

    #[test]
    fn rows_are_split_where_sequences_may_be_long_and_their_parts_fit() {
        let spec =
            |num_heads| AttentionSpec { num_heads, num_kv_heads: 8, head_dim: 128, scale: 1.0, window: None };
        let limits = |context| Limits {
            kv_bytes: 1 << 30,
            step_tokens: 64,
            ..Limits::new(Activations::Bf16, 64, context)
        };
        assert_eq!(rows(&spec(16), &limits(256)), 0);
        assert_eq!(rows(&spec(16), &limits(8192)), 8);
        assert_eq!(rows(&spec(64), &limits(131_072)), 1);
        assert_eq!(rows(&spec(128), &limits(1 << 20)), 0, "one row's parts are too many");
    }
}
