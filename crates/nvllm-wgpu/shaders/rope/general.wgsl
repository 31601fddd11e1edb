// rope: each head's elements i and i + d/2 turned by the angle of their row's position.
//
// rotations [T, d/2] of (cos, sin) come from the host: they are defined to the last f32 bit, and a
// shader's sine and cosine are not. An invocation a pair, a row of workgroups a row.
struct Params {
    cols: u32,
    half: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> rotations: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < p.cols / 2u) {
        let pair = id.x % p.half;
        let at = id.y * p.cols + id.x / p.half * 2u * p.half + pair;
        let turn = rotations[id.y * p.half + pair];
        let a = x[at];
        let b = x[at + p.half];
        out[at] = stored(a * turn.x - b * turn.y);
        out[at + p.half] = stored(b * turn.x + a * turn.y);
    }
}
