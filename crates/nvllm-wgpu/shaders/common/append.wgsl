// Keys and values of heads on their way to the KV cache, by 64 invocations each: NORM_TEAMS heads
// of D elements in `heads`, of which a team has its own.
//
// KV: 0 f32, 1 bf16, 2 FP8 E4M3, 3 int8 (nvllm-core's kv_format.rs). `append(block, i, word)`
// stores word i of a block; its text and its bindings are generated. ROW_WORDS: words of a row
// without its scale.
var<workgroup> heads: array<f32, D * NORM_TEAMS>;
// Bits of magnitudes, which have their order.
var<workgroup> magnitudes: array<u32, 64 * NORM_TEAMS>;

// The bits of the scale of an int8 row: its largest magnitude / 127, NaN the largest of all. Of
// other formats 0.
fn row_scale_bits(lane: u32) -> u32 {
    if (KV != 3u) {
        return 0u;
    }
    let base = lane / 64u * D;
    var most = 0u;
    for (var i = lane % 64u; i < D; i += 64u) {
        most = max(most, bitcast<u32>(heads[base + i]) & 0x7fffffffu);
    }
    magnitudes[lane] = most;
    workgroupBarrier();
    for (var i = 0u; i < 64u; i++) {
        most = max(most, magnitudes[lane / 64u * 64u + i]);
    }
    if (most >= 0x7f800000u) {
        return most;
    }
    return bitcast<u32>(divided(bitcast<f32>(most), 127.0));
}

fn int8_code(x: f32, scale_bits: u32) -> u32 {
    if (scale_bits == 0u || scale_bits >= 0x7f800000u) {
        return 0u;
    }
    let code = clamp(round(divided(x, bitcast<f32>(scale_bits))), -127.0, 127.0);
    return bitcast<u32>(i32(code)) & 0xffu;
}

// Word i of the head that begins at `base`.
fn row_word(i: u32, base: u32, scale_bits: u32) -> u32 {
    if (KV == 0u) {
        return bitcast<u32>(heads[base + i]);
    }
    if (KV == 1u) {
        let low = rounded_to_bf16(bitcast<u32>(heads[base + 2u * i])) >> 16u;
        return low | rounded_to_bf16(bitcast<u32>(heads[base + 2u * i + 1u]));
    }
    var word = 0u;
    for (var j = 0u; j < 4u; j++) {
        let x = heads[base + 4u * i + j];
        var code = 0u;
        if (KV == 3u) {
            code = int8_code(x, scale_bits);
        } else {
            code = e4m3_code(bitcast<u32>(x));
        }
        word |= code << (8u * j);
    }
    return word;
}

// Stores a team's head, which is complete, as row `row` of a block: [k|v, head, offset].
fn append_row(block: u32, row: u32, lane: u32, scale_bits: u32) {
    for (var i = lane % 64u; i < ROW_WORDS; i += 64u) {
        append(block, row * ROW_WORDS + i, row_word(i, lane / 64u * D, scale_bits));
    }
    if (KV == 3u && lane % 64u == 0u) {
        append(block, 2u * p.num_kv_heads * p.block_len * ROW_WORDS + row, scale_bits);
    }
}
