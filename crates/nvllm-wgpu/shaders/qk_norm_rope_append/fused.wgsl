// qk_norm_rope_append: the front of `attention`. Each head of a row of qkv is normed and turned as
// head.wgsl says, and goes to `out` (queries) or to the cache (keys and values, as
// common/append.wgsl says).
//
// A workgroup a head of a row: query heads, then keys, then values.
struct Params {
    num_heads: u32,
    num_kv_heads: u32,
    eps: f32,
    block_len: u32,
    // Words at which the places of rows begin in the inputs.
    places: u32,
    // Blocks in one segment of the cache.
    segment_blocks: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> inputs: array<u32>;
@group(0) @binding(2) var<storage, read> rotations: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> qkv: array<f32>;
@group(0) @binding(4) var<storage, read> q_norm: array<f32>;
@group(0) @binding(5) var<storage, read> k_norm: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<u32>;

const NORM_TEAMS = 1u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y;
    make_head(row, group.x, lane);
    if (group.x < p.num_heads) {
        for (var i = lane; i < D; i += 64u) {
            out[(row * p.num_heads + group.x) * D + i] = bitcast<u32>(heads[i]);
        }
        return;
    }
    let place = inputs[p.places + row];
    // Keys of all heads, then values.
    let in_block = (group.x - p.num_heads) * p.block_len + place % p.block_len;
    append_row(place / p.block_len, in_block, lane, row_scale_bits(lane));
}
