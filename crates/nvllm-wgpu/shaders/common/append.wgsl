// A key or value of one head on its way to the KV cache, D elements in `head`, by 64 invocations.
//
// KV: 0 f32, 1 bf16, 2 FP8 E4M3, 3 int8 (nvllm-core's kv_format.rs). `append(block, i, word)`
// stores word i of a block; its text and its bindings are generated. ROW_WORDS: words of a row
// without its scale.
var<workgroup> head: array<f32, D>;
// Bits of magnitudes, which have their order.
var<workgroup> magnitudes: array<u32, 64>;

// The bits of the scale of an int8 row: its largest magnitude / 127, NaN the largest of all.
fn int8_scale_bits(lane: u32) -> u32 {
    var most = 0u;
    for (var i = lane; i < D; i += 64u) {
        most = max(most, bitcast<u32>(head[i]) & 0x7fffffffu);
    }
    magnitudes[lane] = most;
    workgroupBarrier();
    for (var i = 0u; i < 64u; i++) {
        most = max(most, magnitudes[i]);
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

// Stores `head`, which is complete, as row `row` of a block: [k|v, head, offset].
fn append_row(block: u32, row: u32, lane: u32) {
    let at = row * ROW_WORDS;
    if (KV == 0u) {
        for (var i = lane; i < D; i += 64u) {
            append(block, at + i, bitcast<u32>(head[i]));
        }
    } else if (KV == 1u) {
        for (var i = lane; i < D / 2u; i += 64u) {
            let low = rounded_to_bf16(bitcast<u32>(head[2u * i])) >> 16u;
            append(block, at + i, low | rounded_to_bf16(bitcast<u32>(head[2u * i + 1u])));
        }
    } else {
        var scale = 0u;
        if (KV == 3u) {
            scale = int8_scale_bits(lane);
            if (lane == 0u) {
                append(block, 2u * p.num_kv_heads * p.block_len * ROW_WORDS + row, scale);
            }
        }
        for (var i = lane; i < D / 4u; i += 64u) {
            var word = 0u;
            for (var j = 0u; j < 4u; j++) {
                let x = head[4u * i + j];
                var code = 0u;
                if (KV == 3u) {
                    code = int8_code(x, scale);
                } else {
                    code = e4m3_code(bitcast<u32>(x));
                }
                word |= code << (8u * j);
            }
            append(block, at + i, word);
        }
    }
}
