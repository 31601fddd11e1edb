// linear, linear_add and linear_silu_mul, as layer.wgsl defines them.
//
// A workgroup makes COLS columns of ROWS rows of y. Order of a sum: each of 64 invocations adds the
// products of its elements, which `add_products` names, and then 64 sums become 8, and 1: a
// function of k and of the weight's format only, whatever ROWS is. Bound by reading W once for
// every ROWS rows.
const NUM_COLS = PARTS * COLS;
const NUM_SUMS = ROWS * NUM_COLS;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * ROWS;
    let col = group.x * COLS;
    // One row is all there is where a workgroup makes one: nothing waits for its number.
    var num_rows = row + 1u;
    if (ROWS > 1u) {
        num_rows = p.times * inputs[p.count];
    }
    // Rows and columns past the last are the last again, and not stored.
    var rows: array<u32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        rows[r] = min(row + r, num_rows - 1u);
    }
    var cols: array<u32, NUM_COLS>;
    for (var c = 0u; c < NUM_COLS; c++) {
        cols[c] = c / COLS * p.n + min(col + c % COLS, p.num_cols - 1u);
    }
    // What this invocation stores, and what it adds there, asked for before the products.
    let r = lane / COLS;
    let c = lane % COLS;
    let column = p.first + col + c;
    let at = (row + r) * p.n + column;
    let stores = r < ROWS && row + r < num_rows && col + c < p.num_cols;
    var added = 0.0;
    var bias = 0.0;
    var up_bias = 0.0;
    if (stores) {
        if (HAS_RESIDUAL) {
            added = residual[at];
        }
        if (HAS_BIAS) {
            bias = b[column];
            if (PARTS == 2u) {
                up_bias = b[p.n + column];
            }
        }
    }
    var sums: array<f32, NUM_SUMS>;
    add_products(&sums, &rows, &cols, lane);
    join(&sums, lane);
    if (stores) {
        var y = joined(r * NUM_COLS + c);
        if (HAS_BIAS) {
            y += bias;
        }
        if (PARTS == 2u) {
            var up = joined(r * NUM_COLS + COLS + c);
            if (HAS_BIAS) {
                up += up_bias;
            }
            y = silu(y) * up;
        }
        if (HAS_RESIDUAL) {
            y += added;
        }
        out[at] = stored(y);
    }
}
