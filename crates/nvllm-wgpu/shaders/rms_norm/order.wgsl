// The factor of a norm, 1 / sqrt(mean(x^2) + eps), by 64 invocations: each NORM_TEAMS of them in a
// workgroup have one of their own.
//
// Order of the sum: invocation i adds the squares of runs of 4 elements i, i + 64, .., ascending,
// and then 64 sums become 8, and 1: a function of n only.
var<workgroup> squares: array<f32, 64 * NORM_TEAMS>;

fn add_squares(sum: f32, v: vec4<f32>) -> f32 {
    return fma(v.w, v.w, fma(v.z, v.z, fma(v.y, v.y, fma(v.x, v.x, sum))));
}

// Of the sums of a team's invocations.
fn norm_factor(sum: f32, n: u32, eps: f32, lane: u32) -> f32 {
    squares[lane] = sum;
    workgroupBarrier();
    if (lane % 64u < 8u) {
        for (var i = 1u; i < 8u; i++) {
            squares[lane] += squares[lane + 8u * i];
        }
    }
    workgroupBarrier();
    var all = 0.0;
    for (var i = 0u; i < 8u; i++) {
        all += squares[lane / 64u * 64u + i];
    }
    return 1.0 / sqrt(all / f32(n) + eps);
}
