// linear: y = x W^T + b, W [n, k]. Also linear_add: y = x W^T + b + r, and linear_silu_mul:
// silu(x Wg^T + bg) * (x Wu^T + bu), where W has the rows of Wg, then those of Wu.
//
// A workgroup makes COLS columns of ROWS rows of y. Order of a sum: each of 64 invocations adds the
// products of its elements, which `add_products` names, and then 64 sums become 8, and 1: a
// function of k and of the weight's format only, whatever ROWS is. Bound by reading W once for
// every ROWS rows.
//
// HAS_BIAS, HAS_RESIDUAL: whether b and r are added. PARTS: 2 if gated, else 1. W is one segment of
// the rows: dense or coded, as common/weights.wgsl, chunks.wgsl or coded.wgsl reads it.
struct Params {
    k: u32,
    // Columns of y.
    n: u32,
    // Of these, the first that this segment of W makes, and how many.
    first: u32,
    num_cols: u32,
    // Rows of y for each of what is counted in this word of the inputs.
    times: u32,
    count: u32,
    // As the reader of W has them.
    pitch: u32,
    blocks: u32,
    group: u32,
    shift: u32,
    // Of a norm of x.
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> inputs: array<u32>;
@group(0) @binding(4) var<storage, read> b: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<u32>;

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
