// rms_norm: y = x / sqrt(mean(x^2) + eps) * w over each run of n columns.
//
// A workgroup a run. Runs of any length.
struct Params {
    n: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

const NORM_TEAMS = 1u;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let base = (group.y * groups.x + group.x) * p.n;
    var sum = 0.0;
    for (var first = 4u * lane; first < p.n; first += 256u) {
        for (var i = first; i < min(first + 4u, p.n); i++) {
            sum = fma(x[base + i], x[base + i], sum);
        }
    }
    let factor = norm_factor(sum, p.n, p.eps, lane);
    for (var i = lane; i < p.n; i += 64u) {
        out[base + i] = stored(x[base + i] * factor * w[i]);
    }
}
