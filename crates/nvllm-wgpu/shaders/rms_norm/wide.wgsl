// rms_norm: y = x / sqrt(mean(x^2) + eps) * w over each run of n columns.
//
// A workgroup a run. Runs of whole fours, which are read at once. Bound by latency.
struct Params {
    n: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<u32>>;

const NORM_TEAMS = 1u;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let num = p.n / 4u;
    let base = (group.y * groups.x + group.x) * num;
    var sum = 0.0;
    for (var i = lane; i < num; i += 64u) {
        sum = add_squares(sum, x[base + i]);
    }
    let factor = norm_factor(sum, p.n, p.eps, lane);
    for (var i = lane; i < num; i += 64u) {
        let y = x[base + i] * factor * w[i];
        out[base + i] = vec4(stored(y.x), stored(y.y), stored(y.z), stored(y.w));
    }
}
