// silu_mul: y = silu(x[:, :n]) * x[:, n:]. An invocation an element of y, a row of workgroups a
// row.
struct Params {
    n: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < p.n) {
        let at = id.y * 2u * p.n + id.x;
        out[id.y * p.n + id.x] = stored(silu(x[at]) * x[at + p.n]);
    }
}
