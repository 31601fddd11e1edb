// linear: y = x W^T + b, W [n, k]. Also linear_add: y = x W^T + b + r, and linear_silu_mul:
// silu(x Wg^T + bg) * (x Wu^T + bu), where W has the rows of Wg, then those of Wu.
//
// A workgroup makes COLS columns of ROWS rows of y. Order of a sum: each of 64 invocations adds the
// products of its elements, which `add_products` names, and then 64 sums become 8, and 1: a
// function of k and of the weight's dtype only, whatever ROWS is. Bound by reading W once for every
// ROWS rows.
//
// HAS_BIAS, HAS_RESIDUAL: whether b and r are added. PARTS: 2 if gated, else 1.
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
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> inputs: array<u32>;
@group(0) @binding(4) var<storage, read> b: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<u32>;

const NUM_SUMS = ROWS * PARTS * COLS;

var<workgroup> partial: array<f32, 64 * NUM_SUMS>;

// The row of W that column `c` of those that begin at `col` is made of, counted on through the
// parts. Columns past the last are the last again, and not stored.
fn weight_row(col: u32, c: u32) -> u32 {
    return c / COLS * p.n + min(col + c % COLS, p.num_cols - 1u);
}

// The sum of which 64 invocations have made parts, after these have become 8.
fn joined(sum: u32) -> f32 {
    var y = 0.0;
    for (var j = 0u; j < 8u; j++) {
        y += partial[sum * 64u + j];
    }
    return y;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let num_rows = p.times * inputs[p.count];
    let row = group.y * ROWS;
    let col = group.x * COLS;
    var sums: array<f32, NUM_SUMS>;
    add_products(&sums, row, num_rows, col, lane);
    for (var s = 0u; s < NUM_SUMS; s++) {
        partial[s * 64u + lane] = sums[s];
    }
    workgroupBarrier();
    for (var i = lane; i < 8u * NUM_SUMS; i += 64u) {
        let at = i / 8u * 64u + i % 8u;
        for (var j = 1u; j < 8u; j++) {
            partial[at] += partial[at + 8u * j];
        }
    }
    workgroupBarrier();
    let r = lane / COLS;
    let c = lane % COLS;
    if (r < ROWS && row + r < num_rows && col + c < p.num_cols) {
        let column = p.first + col + c;
        let at = (row + r) * p.n + column;
        var y = joined(r * PARTS * COLS + c);
        if (HAS_BIAS) {
            y += b[column];
        }
        if (PARTS == 2u) {
            var up = joined((r * PARTS + 1u) * COLS + c);
            if (HAS_BIAS) {
                up += b[p.n + column];
            }
            y = silu(y) * up;
        }
        if (HAS_RESIDUAL) {
            y += residual[at];
        }
        out[at] = stored(y);
    }
}
