// Chunks of 16 bytes of a dense weight `w`, PER elements each. Rows are whole chunks, `p.pitch` of
// them.
//
// WEIGHT: 0 f32, 1 bf16, 2 f16.
alias Chunk = vec4<u32>;

fn load_chunk(row: u32, i: u32) -> Chunk {
    return w[row * p.pitch + i];
}

// Elements 4 j .. 4 j + 3 of a chunk.
fn chunk_values(chunk: Chunk, j: u32) -> vec4<f32> {
    if (WEIGHT == 0u) {
        return bitcast<vec4<f32>>(chunk);
    }
    let a = chunk[2u * j];
    let b = chunk[2u * j + 1u];
    if (WEIGHT == 1u) {
        return bitcast<vec4<f32>>(vec4(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
    }
    return bitcast<vec4<f32>>(
        vec4(f16_bits(a & 0xffffu), f16_bits(a >> 16u), f16_bits(b & 0xffffu), f16_bits(b >> 16u)));
}

// Nothing is looked up.
fn prepare_weights(lane: u32) {}
