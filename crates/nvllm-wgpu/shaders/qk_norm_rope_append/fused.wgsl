// qk_norm_rope_append: the front of `attention`. Each head of a row of qkv is normed (NORM; queries
// and keys), turned by its row's rotation (queries and keys), and goes to `out` (queries) or to the
// cache (keys and values). It rounds where the ops that it stands for round, and sums as rms_norm.
//
// A workgroup a head of a row: query heads, then keys, then values. What is appended is stored as
// common/append.wgsl says.
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

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y;
    let is_query = group.x < p.num_heads;
    let is_value = group.x >= p.num_heads + p.num_kv_heads;
    let base = (row * (p.num_heads + 2u * p.num_kv_heads) + group.x) * D;
    for (var i = lane; i < D; i += 64u) {
        head[i] = qkv[base + i];
    }
    if (NORM) {
        workgroupBarrier();
        var sum = 0.0;
        for (var i = lane; i < D / 4u; i += 64u) {
            sum = add_squares(sum, vec4(head[4u * i], head[4u * i + 1u], head[4u * i + 2u], head[4u * i + 3u]));
        }
        let factor = norm_factor(sum, D, p.eps, lane);
        if (!is_value) {
            for (var i = lane; i < D; i += 64u) {
                let weight = select(k_norm[i], q_norm[i], is_query);
                head[i] = bitcast<f32>(stored(head[i] * factor * weight));
            }
        }
    }
    workgroupBarrier();
    let half = D / 2u;
    if (!is_value) {
        for (var i = lane; i < half; i += 64u) {
            let turn = rotations[row * half + i];
            let a = head[i];
            let b = head[i + half];
            head[i] = bitcast<f32>(stored(a * turn.x - b * turn.y));
            head[i + half] = bitcast<f32>(stored(b * turn.x + a * turn.y));
        }
    }
    workgroupBarrier();
    if (is_query) {
        for (var i = lane; i < D; i += 64u) {
            out[(row * p.num_heads + group.x) * D + i] = bitcast<u32>(head[i]);
        }
        return;
    }
    let place = inputs[p.places + row];
    // Keys of all heads, then values.
    let in_block = (group.x - p.num_heads) * p.block_len + place % p.block_len;
    append_row(place / p.block_len, in_block, lane);
}
