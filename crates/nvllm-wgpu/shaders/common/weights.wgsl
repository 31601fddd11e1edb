// Elements of a dense weight `w`, which lies as the checkpoint has it.
//
// WEIGHT: 0 f32, 1 bf16, 2 f16. There is no 16-bit storage: two elements share a word.

fn weight_bits(i: u32) -> u32 {
    if (WEIGHT == 0u) {
        return w[i];
    }
    let half = (w[i >> 1u] >> ((i & 1u) * 16u)) & 0xffffu;
    if (WEIGHT == 1u) {
        return half << 16u;
    }
    return f16_bits(half);
}

fn weight(i: u32) -> f32 {
    return bitcast<f32>(weight_bits(i));
}
