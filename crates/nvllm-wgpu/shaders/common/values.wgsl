// Values between ops: 32-bit words, an f32 each. Under bf16 activations they are rounded to bf16
// and kept as f32, so that a row of any length begins at a word.
//
// ROUND: whether what is stored is rounded. Everything is tested by bits: a driver may compute as
// if there were neither NaN nor infinity.

// To nearest, ties to even; a NaN stays one.
fn rounded_to_bf16(bits: u32) -> u32 {
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (bits | 0x00400000u) & 0xffff0000u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u;
}

fn stored_bits(bits: u32) -> u32 {
    if (ROUND) {
        return rounded_to_bf16(bits);
    }
    return bits;
}

fn stored(x: f32) -> u32 {
    return stored_bits(bitcast<u32>(x));
}
