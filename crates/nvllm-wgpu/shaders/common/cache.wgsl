// Rows of the KV cache: eight columns of a key or value at once.
//
// KV: 0 f32, 1 bf16, 2 FP8 E4M3, 3 int8. One layer's block is the elements [k|v, head, offset, D],
// then for int8 an f32 scale for each row. `cached_words(block, i)` is 16 bytes from word i of a
// block on and `cached_word(block, i)` its i-th word, from the segment of the cache that has it;
// their text is generated with the bindings. ROW_WORDS: words of a row without its scale.

// Eight elements as they are stored.
struct Octet {
    a: vec4<u32>,
    b: vec4<u32>,
}

struct Eight {
    a: vec4<f32>,
    b: vec4<f32>,
}

// Columns 8 i .. 8 i + 7 of a row: `row` counts [k|v, head, offset] in its block.
fn load_octet(block: u32, row: u32, i: u32) -> Octet {
    let at = row * ROW_WORDS;
    if (KV == 0u) {
        return Octet(cached_words(block, at + 8u * i), cached_words(block, at + 8u * i + 4u));
    }
    if (KV == 1u) {
        return Octet(cached_words(block, at + 4u * i), vec4(0u));
    }
    return Octet(vec4(cached_word(block, at + 2u * i), cached_word(block, at + 2u * i + 1u), 0u, 0u), vec4(0u));
}

fn code_values(word: u32) -> vec4<f32> {
    let bytes = (vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(0xffu);
    if (KV == 3u) {
        // As the mantissa of 2^23, its sign bit flipped.
        return bitcast<vec4<f32>>((bytes ^ vec4(0x80u)) | vec4(0x4b000000u)) - vec4(8388736.0);
    }
    // By integers: a driver may flush what is subnormal.
    let size = bitcast<vec4<f32>>(((bytes & vec4(0x7fu)) << vec4(20u)) + vec4(0x3c000000u));
    let small = fma(size, vec4(2.0), vec4(-0.015625));
    let either = bitcast<vec4<u32>>(select(size, small, (bytes & vec4(0x78u)) == vec4(0u)));
    let bits = select(either, vec4(0x7fc00000u), (bytes & vec4(0x7fu)) == vec4(0x7fu));
    return bitcast<vec4<f32>>(bits | ((bytes & vec4(0x80u)) << vec4(24u)));
}

// Their values, those of int8 without the scale of the row.
fn octet_values(octet: Octet) -> Eight {
    let a = octet.a;
    if (KV == 0u) {
        return Eight(bitcast<vec4<f32>>(a), bitcast<vec4<f32>>(octet.b));
    }
    if (KV == 1u) {
        let low = a << vec4(16u);
        let high = a & vec4(0xffff0000u);
        return Eight(
            bitcast<vec4<f32>>(vec4(low.x, high.x, low.y, high.y)),
            bitcast<vec4<f32>>(vec4(low.z, high.z, low.w, high.w)));
    }
    return Eight(code_values(a.x), code_values(a.y));
}

// The scale of a row; 1 where rows have none.
fn row_scale(block: u32, row: u32) -> f32 {
    if (KV == 3u) {
        return bitcast<f32>(cached_word(block, 2u * p.num_kv_heads * p.block_len * ROW_WORDS + row));
    }
    return 1.0;
}
