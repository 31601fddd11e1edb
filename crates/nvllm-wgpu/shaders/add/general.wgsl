// add: y = a + b. An invocation an element, a row of workgroups a row.
struct Params {
    cols: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < p.cols) {
        let i = id.y * p.cols + id.x;
        out[i] = stored(a[i] + b[i]);
    }
}
