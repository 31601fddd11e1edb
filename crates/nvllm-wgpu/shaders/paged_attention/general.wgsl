// paged_attention: o = sum_j p_j v_j, p = softmax(scale q . k), over a row's own sequence.
//
// A workgroup of 256 a query head of a row; SPLIT: a chunk of it, of which fold.wgsl puts all
// together, with the same bits. Order: chunk.wgsl. Bound by latency, for long sequences by reading
// keys and values.
struct Params {
    num_heads: u32,
    // Query heads of a KV head.
    group: u32,
    num_kv_heads: u32,
    scale: f32,
    // Positions that a query sees; 0: all.
    window: u32,
    block_len: u32,
    // Words at which these begin in the inputs, and entries of one block table.
    row_seq: u32,
    row_kv: u32,
    tables: u32,
    max_blocks: u32,
    // Blocks in one segment of the cache.
    segment_blocks: u32,
    // Chunks of a row at most.
    max_chunks: u32,
    // Of the norms of heads.
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> inputs: array<u32>;
// The output, or what each chunk makes: maximum, sum, two unused words, D columns.
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = id.y;
    let q_head = id.x % p.num_heads;
    let last = inputs[p.row_kv + row];
    var first = 0u;
    if (p.window != 0u && last + 1u > p.window) {
        first = last + 1u - p.window;
    }
    let table = p.tables + inputs[p.row_seq + row] * p.max_blocks;
    if (SPLIT) {
        let number = id.x / p.num_heads;
        let chunk = number * CHUNK;
        if (chunk > last || chunk + CHUNK <= first) {
            return;
        }
        let block = block_of(chunk, last, table, lane);
        prepare_query(row, q_head, last, table, chunk, lane);
        let part = attend(chunk, first, last, block, q_head / p.group, lane);
        let at = ((row * p.num_heads + q_head) * p.max_chunks + number) * (D + 4u);
        if (lane == 0u) {
            out[at] = bitcast<u32>(part.highest);
            out[at + 1u] = bitcast<u32>(part.total);
        }
        if (lane < D / 4u) {
            for (var c = 0u; c < 4u; c++) {
                out[at + 4u + 4u * lane + c] = bitcast<u32>(part.o[c]);
            }
        }
        return;
    }
    var block = block_of(first / CHUNK * CHUNK, last, table, lane);
    // The new key and value are stored once, whichever chunk they are of.
    prepare_query(row, q_head, last, table, last / CHUNK * CHUNK, lane);
    var all = Part(LOWEST, 0.0, vec4(0.0));
    for (var chunk = first / CHUNK * CHUNK; chunk <= last; chunk += CHUNK) {
        let next = block_of(chunk + CHUNK, last, table, lane);
        all = together(all, attend(chunk, first, last, block, q_head / p.group, lane));
        block = next;
    }
    if (lane < D / 4u) {
        let o = all.o / vec4(all.total);
        for (var c = 0u; c < 4u; c++) {
            out[(row * p.num_heads + q_head) * D + 4u * lane + c] = stored(o[c]);
        }
    }
}
