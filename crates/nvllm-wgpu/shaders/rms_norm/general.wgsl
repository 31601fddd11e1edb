// rms_norm: y = x / sqrt(mean(x^2) + eps) * w over each run of n columns.
//
// A workgroup a run. Order of the sum: invocation i adds elements i, i + 64, .. and then 64 sums
// become 8, and 1: a function of n only.
struct Params {
    n: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

var<workgroup> sums: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let base = (group.y * groups.x + group.x) * p.n;
    var sum = 0.0;
    for (var i = lane; i < p.n; i += 64u) {
        sum = fma(x[base + i], x[base + i], sum);
    }
    sums[lane] = sum;
    workgroupBarrier();
    if (lane < 8u) {
        for (var i = 1u; i < 8u; i++) {
            sums[lane] += sums[lane + 8u * i];
        }
    }
    workgroupBarrier();
    sum = 0.0;
    for (var i = 0u; i < 8u; i++) {
        sum += sums[i];
    }
    let scale = 1.0 / sqrt(sum / f32(p.n) + p.eps);
    for (var i = lane; i < p.n; i += 64u) {
        out[base + i] = stored(x[base + i] * scale * w[i]);
    }
}
