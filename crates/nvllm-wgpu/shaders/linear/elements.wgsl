// Products of rows of any length, element by element: invocation i of 64 adds those of elements i,
// i + 64, ..
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> w: array<u32>;

fn add_products(sums: ptr<function, array<f32, NUM_SUMS>>, row: u32, num_rows: u32, col: u32, lane: u32) {
    for (var i = lane; i < p.k; i += 64u) {
        var v: array<f32, PARTS * COLS>;
        for (var c = 0u; c < PARTS * COLS; c++) {
            v[c] = weight(weight_row(col, c) * p.k + i);
        }
        for (var r = 0u; r < ROWS; r++) {
            let a = x[min(row + r, num_rows - 1u) * p.k + i];
            for (var c = 0u; c < PARTS * COLS; c++) {
                (*sums)[r * PARTS * COLS + c] = fma(a, v[c], (*sums)[r * PARTS * COLS + c]);
            }
        }
    }
}
