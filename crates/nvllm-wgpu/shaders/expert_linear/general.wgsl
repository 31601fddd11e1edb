// expert_linear: y[r, :] = W[ids[r]] x[r / times, :], W [E, n, k].
//
// A workgroup makes 4 columns of one row; the order of a sum is that of `linear`. One segment of
// the rows of W: columns that lie in another are left to the launch that has it.
struct Params {
    k: u32,
    n: u32,
    // Of the rows of W, the first of this segment, and how many.
    first: u32,
    num_rows: u32,
    // Rows of y for each row of x.
    times: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> w: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<u32>;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let col = group.x * 4u;
    // May wrap around for columns of an earlier segment: they are not stored.
    let w_row = ids[group.y] * p.n + col - p.first;
    var acc: array<f32, 4>;
    for (var i = lane; i < p.k; i += 64u) {
        let a = x[group.y / p.times * p.k + i];
        for (var c = 0u; c < 4u; c++) {
            let row = w_row + c;
            if (row < p.num_rows) {
                acc[c] = fma(a, weight(row * p.k + i), acc[c]);
            }
        }
    }
    for (var c = 0u; c < 4u; c++) {
        sums[c * 64u + lane] = acc[c];
    }
    workgroupBarrier();
    for (var i = lane; i < 32u; i += 64u) {
        let at = i / 8u * 64u + i % 8u;
        for (var j = 1u; j < 8u; j++) {
            sums[at] += sums[at + 8u * j];
        }
    }
    workgroupBarrier();
    if (lane < 4u && col + lane < p.n && w_row + lane < p.num_rows) {
        var y = 0.0;
        for (var j = 0u; j < 8u; j++) {
            y += sums[lane * 64u + j];
        }
        out[group.y * p.n + col + lane] = stored(y);
    }
}
