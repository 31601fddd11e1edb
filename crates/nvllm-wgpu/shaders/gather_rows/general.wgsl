// gather_rows: y[o, :] = x[row(o), :] for each output row of the step, a copy.
struct Params {
    cols: u32,
    // Words at which the step's output rows begin, eight each: the row comes first.
    outputs: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> inputs: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < p.cols) {
        let row = inputs[p.outputs + 8u * id.y];
        out[id.y * p.cols + id.x] = x[row * p.cols + id.x];
    }
}
