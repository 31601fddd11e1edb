// Products of rows of whole chunks of 16 bytes, PER elements each: invocation i of 64 adds those of
// chunks i, i + 64, .., in each of them ascending.
//
// `rows` are the rows of x, `cols` those of W. STEPS: the chunks of a row that an invocation has,
// where they are so few that all are asked for before the first is used; 0 where they are more. For
// those `add_held` is generated, without loops: what a compiler leaves in one waits for each load.
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;

// `sum` and four products, ascending.
fn add_four(a: vec4<f32>, v: vec4<f32>, sum: f32) -> f32 {
    return fma(a.w, v.w, fma(a.z, v.z, fma(a.y, v.y, fma(a.x, v.x, sum))));
}

fn add_chunk(
    sums: ptr<function, array<f32, NUM_SUMS>>,
    rows: ptr<function, array<u32, ROWS>>,
    chunks: ptr<function, array<Chunk, NUM_COLS>>,
    i: u32,
) {
    for (var j = 0u; j < PER / 4u; j++) {
        var b: array<vec4<f32>, NUM_COLS>;
        for (var c = 0u; c < NUM_COLS; c++) {
            b[c] = chunk_values((*chunks)[c], j);
        }
        for (var r = 0u; r < ROWS; r++) {
            let a = row_values((*rows)[r], i * (PER / 4u) + j);
            for (var c = 0u; c < NUM_COLS; c++) {
                (*sums)[r * NUM_COLS + c] = add_four(a, b[c], (*sums)[r * NUM_COLS + c]);
            }
        }
    }
}

fn add_products(
    sums: ptr<function, array<f32, NUM_SUMS>>,
    rows: ptr<function, array<u32, ROWS>>,
    cols: ptr<function, array<u32, NUM_COLS>>,
    lane: u32,
) {
    if (STEPS > 0u) {
        add_held(sums, (*rows)[0], cols, lane);
        return;
    }
    prepare_weights(lane);
    prepare_row((*rows)[0], lane);
    var chunks: array<Chunk, NUM_COLS>;
    for (var i = lane; i < p.k / PER; i += 64u) {
        for (var c = 0u; c < NUM_COLS; c++) {
            chunks[c] = load_chunk((*cols)[c], i);
        }
        add_chunk(sums, rows, &chunks, i);
    }
}
