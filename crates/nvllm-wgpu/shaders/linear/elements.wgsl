// Products of rows of any length, element by element: invocation i of 64 adds those of elements i,
// i + 64, ..
//
// `rows` are the rows of x, `cols` those of W.
@group(0) @binding(2) var<storage, read> x: array<f32>;

fn add_products(
    sums: ptr<function, array<f32, NUM_SUMS>>,
    rows: ptr<function, array<u32, ROWS>>,
    cols: ptr<function, array<u32, NUM_COLS>>,
    lane: u32,
) {
    prepare_weights(lane);
    for (var i = lane; i < p.k; i += 64u) {
        var v: array<f32, NUM_COLS>;
        for (var c = 0u; c < NUM_COLS; c++) {
            v[c] = bitcast<f32>(weight_bits((*cols)[c], i));
        }
        for (var r = 0u; r < ROWS; r++) {
            let a = x[(*rows)[r] * p.k + i];
            for (var c = 0u; c < NUM_COLS; c++) {
                (*sums)[r * NUM_COLS + c] = fma(a, v[c], (*sums)[r * NUM_COLS + c]);
            }
        }
    }
}
