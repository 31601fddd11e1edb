// The one row of x, normed on its way as rms_norm does it: with the same bits. Each workgroup does
// so for itself, behind its requests for W.
//
// K: columns, a multiple of 4. NORM_ROUND: whether the norm's result is rounded. `norm_weight` and
// `prepare_row` are generated.

const NORM_TEAMS = 1u;

var<workgroup> normed: array<vec4<f32>, K / 4u>;

fn norm_stored(y: f32) -> f32 {
    if (NORM_ROUND) {
        return bitcast<f32>(rounded_to_bf16(bitcast<u32>(y)));
    }
    return y;
}

fn keep_normed(i: u32, v: vec4<f32>, weight: vec4<f32>, factor: f32) {
    let y = v * factor * weight;
    normed[i] = vec4(norm_stored(y.x), norm_stored(y.y), norm_stored(y.z), norm_stored(y.w));
}

// Of rows for which `prepare_row` is not generated without loops.
fn prepare_long_row(row: u32, lane: u32) {
    let base = row * (K / 4u);
    var sum = 0.0;
    for (var i = lane; i < K / 4u; i += 64u) {
        let v = x[base + i];
        normed[i] = v;
        sum = add_squares(sum, v);
    }
    let factor = norm_factor(sum, p.k, p.eps, lane);
    for (var i = lane; i < K / 4u; i += 64u) {
        keep_normed(i, normed[i], norm_weight[i], factor);
    }
    workgroupBarrier();
}

// Elements 4 i .. 4 i + 3 of the row.
fn row_values(row: u32, i: u32) -> vec4<f32> {
    return normed[i];
}
