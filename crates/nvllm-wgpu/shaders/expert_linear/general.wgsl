// expert_linear: y[r, :] = W[ids[r]] x[r / times, :], W [E, n, k].
//
// A workgroup makes 4 columns of one row; the order of a sum is that of `linear`, whose readers of
// W it has too. One segment of the rows of W: columns that lie in another are left to the launch
// that has it.
struct Params {
    k: u32,
    n: u32,
    // Of the rows of W, the first of this segment, and how many.
    first: u32,
    num_rows: u32,
    // Rows of y for each row of x.
    times: u32,
    // As the reader of W has them.
    pitch: u32,
    blocks: u32,
    group: u32,
    shift: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<u32>;

const ROWS = 1u;
const NUM_COLS = 4u;
const NUM_SUMS = 4u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let col = group.x * 4u;
    // May wrap around for columns of an earlier segment: they are not stored.
    let w_row = ids[group.y] * p.n + col - p.first;
    var cols: array<u32, NUM_COLS>;
    for (var c = 0u; c < NUM_COLS; c++) {
        cols[c] = min(w_row + c, p.num_rows - 1u);
    }
    var rows: array<u32, ROWS>;
    rows[0] = group.y / p.times;
    var sums: array<f32, NUM_SUMS>;
    add_products(&sums, &rows, &cols, lane);
    join(&sums, lane);
    if (lane < 4u && col + lane < p.n && w_row + lane < p.num_rows) {
        out[group.y * p.n + col + lane] = stored(joined(lane));
    }
}
