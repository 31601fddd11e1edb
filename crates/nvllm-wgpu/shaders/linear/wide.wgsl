// Products of rows of whole 16 bytes, which are read at once: 8 elements of 16 bits, or 4 of 32.
// Invocation i of 64 adds those of chunks i, i + 64, .., in each of them ascending.
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;

// Elements 0, 2, .. of a pair of bytes each, and elements 1, 3, ..
fn low(v: vec4<u32>) -> vec4<f32> {
    if (WEIGHT == 1u) {
        return bitcast<vec4<f32>>(v << vec4(16u));
    }
    return bitcast<vec4<f32>>(vec4(f16_bits(v.x & 0xffffu), f16_bits(v.y & 0xffffu), f16_bits(v.z & 0xffffu), f16_bits(v.w & 0xffffu)));
}

fn high(v: vec4<u32>) -> vec4<f32> {
    if (WEIGHT == 1u) {
        return bitcast<vec4<f32>>(v & vec4(0xffff0000u));
    }
    return low(v >> vec4(16u));
}

fn add_products(sums: ptr<function, array<f32, NUM_SUMS>>, row: u32, num_rows: u32, col: u32, lane: u32) {
    let per = select(8u, 4u, WEIGHT == 0u);
    let chunks = p.k / per;
    for (var i = lane; i < chunks; i += 64u) {
        var v: array<vec4<u32>, PARTS * COLS>;
        for (var c = 0u; c < PARTS * COLS; c++) {
            v[c] = w[weight_row(col, c) * chunks + i];
        }
        for (var r = 0u; r < ROWS; r++) {
            let at = (min(row + r, num_rows - 1u) * chunks + i) * (per / 4u);
            let a = x[at];
            if (WEIGHT == 0u) {
                for (var c = 0u; c < PARTS * COLS; c++) {
                    let b = bitcast<vec4<f32>>(v[c]);
                    let s = (*sums)[r * PARTS * COLS + c];
                    (*sums)[r * PARTS * COLS + c] = fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, s))));
                }
            } else {
                let e = x[at + 1u];
                for (var c = 0u; c < PARTS * COLS; c++) {
                    let l = low(v[c]);
                    let h = high(v[c]);
                    var s = (*sums)[r * PARTS * COLS + c];
                    s = fma(a.w, h.y, fma(a.z, l.y, fma(a.y, h.x, fma(a.x, l.x, s))));
                    s = fma(e.w, h.w, fma(e.z, l.w, fma(e.y, h.z, fma(e.x, l.z, s))));
                    (*sums)[r * PARTS * COLS + c] = s;
                }
            }
        }
    }
}
