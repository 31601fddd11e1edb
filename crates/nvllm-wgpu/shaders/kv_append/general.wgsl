// kv_append: stores each row's key and value at its place in the cache.
//
// KV: 0 f32, 1 bf16. A block of one layer is [k|v, head, offset, d]. One segment of the blocks:
// rows that go to another are left to the launch that has it. An invocation a word of the cache, a
// row of workgroups a row.
struct Params {
    // Words of a row's keys.
    words: u32,
    // Words of one head.
    head_words: u32,
    block_len: u32,
    // Words at which the places of rows begin in the inputs.
    places: u32,
    // Blocks before this segment, and blocks in it.
    first: u32,
    num_blocks: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> inputs: array<u32>;
@group(0) @binding(2) var<storage, read> k: array<u32>;
@group(0) @binding(3) var<storage, read> v: array<u32>;
@group(0) @binding(4) var<storage, read_write> cache: array<u32>;

fn element(values: u32, i: u32) -> u32 {
    if (values == 0u) {
        return k[i];
    }
    return v[i];
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let values = id.x / p.words;
    if (values > 1u) {
        return;
    }
    let place = inputs[p.places + id.y];
    let block = place / p.block_len - p.first;
    if (block >= p.num_blocks) {
        return;
    }
    let word = id.x % p.words;
    let head = values * (p.words / p.head_words) + word / p.head_words;
    let at = block * 2u * p.words * p.block_len
        + (head * p.block_len + place % p.block_len) * p.head_words + word % p.head_words;
    if (KV == 0u) {
        cache[at] = element(values, id.y * p.words + word);
    } else {
        let i = 2u * (id.y * p.words + word);
        let low = rounded_to_bf16(element(values, i)) >> 16u;
        cache[at] = low | rounded_to_bf16(element(values, i + 1u));
    }
}
