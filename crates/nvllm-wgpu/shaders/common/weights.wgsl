// Elements of a dense weight `w`, which lies as the checkpoint has it: rows of `p.pitch` elements.
//
// WEIGHT: 0 f32, 1 bf16, 2 f16. There is no 16-bit storage: two elements share a word.

fn weight_bits(row: u32, col: u32) -> u32 {
    let i = row * p.pitch + col;
    if (WEIGHT == 0u) {
        return w[i];
    }
    let half = (w[i >> 1u] >> ((i & 1u) * 16u)) & 0xffffu;
    if (WEIGHT == 1u) {
        return half << 16u;
    }
    return f16_bits(half);
}

// Nothing is looked up.
fn prepare_weights(lane: u32) {}
