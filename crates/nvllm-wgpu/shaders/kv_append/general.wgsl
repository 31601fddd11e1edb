// kv_append: stores each row's key and value at its place in the cache, as common/append.wgsl says.
//
// A workgroup a head of a row: keys, then values.
struct Params {
    num_kv_heads: u32,
    block_len: u32,
    // Words at which the places of rows begin in the inputs.
    places: u32,
    // Blocks in one segment of the cache.
    segment_blocks: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> inputs: array<u32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;

const NORM_TEAMS = 1u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = inputs[p.places + id.y];
    let base = (id.y * p.num_kv_heads + id.x % p.num_kv_heads) * D;
    for (var i = lane; i < D; i += 64u) {
        if (id.x < p.num_kv_heads) {
            heads[i] = k[base + i];
        } else {
            heads[i] = v[base + i];
        }
    }
    workgroupBarrier();
    let scale = row_scale_bits(lane);
    append_row(place / p.block_len, id.x * p.block_len + place % p.block_len, lane, scale);
}
