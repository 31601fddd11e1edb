// weighted_sum: y[t, :] = sum_j weights[t*c + j] x[t*c + j, :], in row order.
struct Params {
    cols: u32,
    times: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < p.cols) {
        var sum = 0.0;
        for (var j = 0u; j < p.times; j++) {
            let row = id.y * p.times + j;
            sum = fma(x[row * p.cols + id.x], weights[row], sum);
        }
        out[id.y * p.cols + id.x] = stored(sum);
    }
}
