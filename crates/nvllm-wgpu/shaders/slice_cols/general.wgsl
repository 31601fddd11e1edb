// slice_cols: y = x[:, start..start + len], a copy. Also all_reduce and all_gather in a world of
// one, which copy all columns.
struct Params {
    cols: u32,
    start: u32,
    len: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < p.len) {
        out[id.y * p.len + id.x] = x[id.y * p.cols + p.start + id.x];
    }
}
